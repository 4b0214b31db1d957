"""What `pip install` gives, from a clone and from a source distribution."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def succeed(*words: object, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": "/root", **pip_settings(), **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["clone", "sdist"])
def test_pip_builds_and_installs_everything(origin: str, tmp_path: Path) -> None:
    source = tmp_path / "clone"
    succeed("git", "clone", "-q", ROOT, source)
    commit = succeed("git", "rev-parse", "HEAD", cwd=source).strip()
    if origin == "sdist":
        code = "import mesonpy, sys; mesonpy.build_sdist(sys.argv[1])"
        tools = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        succeed(sys.executable, "-c", code, tmp_path, cwd=source, PATH=tools)
        (source,) = tmp_path.glob("ocirt-*.tar.gz")
    succeed(sys.base_prefix + "/bin/python3", "-m", "venv", tmp_path / "venv")
    succeed(tmp_path / "venv/bin/pip", "install", "-q", source, cwd=tmp_path)
    ocirt = tmp_path / "venv/bin/ocirt"
    assert ocirt.read_bytes()[:4] == b"\x7fELF"
    assert f"commit: {commit}" in succeed(ocirt, "--version", cwd=tmp_path)
    code = "from ocirt import Container, kernel; from ocirt.spec import _compiled; print(kernel.CLONE_NEWNS)"
    assert succeed(tmp_path / "venv/bin/python", "-c", code, cwd=tmp_path) == "131072\n"
    init = next((tmp_path / "venv").rglob("ocirt/ocirt-init"))
    assert os.access(init, os.X_OK)
    (tmp_path / "bundle").mkdir()
    succeed(ocirt, "spec", "--bundle", tmp_path / "bundle", cwd=tmp_path)
    assert (tmp_path / "bundle/config.json").exists()

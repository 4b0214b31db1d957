"""The cases of guest_cases.py, each as a test: one boot of the virtual machine for each layout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm import run

# Under the names that they have in the guest, where they lie side by side.
sys.path.insert(0, str(Path(__file__).parent))
import guest_cases  # type: ignore[import-not-found]
import guest_controllers  # type: ignore[import-not-found]  # noqa: F401
import guest_effects  # type: ignore[import-not-found]  # noqa: F401

LINE = re.compile(r"(ok|FAIL) (\S+?)(?:: (.*))? \([\d.]+ s\)")
NAMES = {
    layout: [name for name, _, _, layouts, only in guest_cases.CASES if layout in layouts]
    for layout in ("v2", "hybrid", "v1")
}
pytestmark = [pytest.mark.vm, pytest.mark.slow, pytest.mark.root]


@pytest.fixture(scope="module")
def image():
    run.build()


@pytest.fixture(scope="module")
def results(image, request: pytest.FixtureRequest):
    """results(layout): name of a case to why it failed, "" when it did not; and all that was said."""
    selected = {item.callspec.params["name"] for item in request.session.items if _is_case(item)}
    found: dict[str, tuple[dict[str, str], str]] = {}

    def get(layout: str) -> tuple[dict[str, str], str]:
        if layout not in found:
            names = [name for name in NAMES[layout] if name in selected]
            done = subprocess.run(
                run.command("ocirt", layout, names),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            lines = map(LINE.fullmatch, done.stdout.splitlines())
            found[layout] = {line[2]: line[3] or "" for line in lines if line}, done.stdout
        return found[layout]

    return get


def _is_case(item: pytest.Item) -> bool:
    return item.nodeid.partition("::")[0].endswith("vm/test_vm.py") and hasattr(item, "callspec")


@pytest.mark.parametrize(
    ("layout", "name"), [(layout, name) for layout, names in NAMES.items() for name in names]
)
def test_in_the_machine(results, layout, name):
    told, output = results(layout)
    assert name in told, f"the guest did not tell of it; it said:\n{output}"
    assert not told[name], told[name]


def test_images_become_bundles_on_linux_6_1(image):
    """Overlays by mount(2), layers of Linux's first id-mapped overlays, fuse-overlayfs."""
    root = Path(__file__).resolve().parents[2]
    mounts = dict.fromkeys((root, Path(sys.prefix).resolve()))
    options = [word for path in mounts for word in ("--mount", f"{path}:{path}:ro")]
    script = f"modprobe fuse; exec {sys.executable} {root}/tests/vm/guest_images.py"
    env = [f"PYTHONPATH={root}:{root}/oci-image", "PYTHONDONTWRITEBYTECODE=1"]
    words = [run.VM, "run", "--timeout", "300", *options, "--", "env", *env, "sh", "-c", script]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "ok"

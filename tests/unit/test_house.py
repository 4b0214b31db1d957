"""The rules of the house: who may import whom, sizes, formatting, types."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ocirt"

# A module may import what stands in an earlier row, and its own package. docs/architecture.md
# says what each is for.
LAYERS = (
    "errors",
    "_shim _seccomp _commit",
    "kernel interrupt",
    "procfs",
    "spec",
    "spawn unixsocket trace options logsink version",
    "log plan host initbin explain state",
    "context",
    # what applies fields: these do not know each other
    (
        "namespaces idmap rootfs mounts mount_options sources cgroup_mount devices terminal sysctl process "
        "capabilities seccomp seccomp_compile lsm hooks notify netdev intelrdt cgroups"
    ),
    "observe",  # reads back, and shares no code with what applies
    "fields",
    "build",
    "console",
    "launch",
    "salvage freeze update events",
    "running",
    "container",
    "verify features describe doctor foreground run",
    "cli",
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
APPLIERS = next(set(row.split()) for row in LAYERS if "mounts" in row)

# One subject in two files.
SAME_SUBJECT = {
    ("cgroup_mount", "mounts"),
    ("mounts", "cgroup_mount"),
    ("mounts", "mount_options"),
    ("mounts", "sources"),  # of bind mounts
    ("mounts", "notify"),  # the socket is bound into the container
    ("devices", "mounts"),  # attributes of a device's bind mount
    ("terminal", "devices"),
    ("namespaces", "idmap"),
    ("process", "capabilities"),
    ("seccomp", "seccomp_compile"),
    ("seccomp_compile", "seccomp"),
}
# The same for oci_image, the other distribution. Of ocirt it may import what OCIRT_FOR_IMAGES names.
IMAGE_PACKAGE = ROOT / "oci-image/oci_image"
IMAGE_LAYERS = (
    "errors deflate",
    "newfile digest platforms acl removal copytree users overlay userns",
    "btrfs fuse_overlay shift",
    "reference descriptor tarstream conversion",
    "tarwrite inflate store",
    "layer gc",
    "extract",
    "transports",
    "transfer diff drivers",
    "flatten",
    "pack",
    "compare copyfiles rootfs unpack snapshots look",
    "bundle",
    "cli",
)
IMAGE_RANK = {name: rank for rank, row in enumerate(IMAGE_LAYERS) for name in row.split()}
OCIRT_FOR_IMAGES = {"kernel", "errors", "paths", "spec"}

# Also true of comments, in every language here; written apart so that this file passes.
MARKS = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git clone")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.name != "_compiled.py")


def imports(path: Path, package: str = "ocirt") -> Iterator[str]:
    """Names below package that a file imports when it runs, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checkers = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            names = (
                [f"{package}.{alias.name}" for alias in node.names]
                if node.module == package
                else [node.module or ""]
            )
        else:
            continue
        yield from (name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}."))


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_only_what_stands_above_them(path: Path) -> None:
    name = top(path)
    if name in {"__init__", "__main__"}:
        return
    assert name in RANK, f"put {name} into the table"
    for imported in {found.split(".")[0] for found in imports(path)} - {name}:
        if imported == "__version__" or (name, imported) in SAME_SUBJECT:
            continue
        assert imported in RANK, f"put {imported} into the table"
        assert RANK[imported] < RANK[name], f"{name} must not import {imported}"


def test_ocirt_never_imports_oci_image() -> None:
    for path in modules():
        assert not re.search(r"^\s*(from|import) oci_image", path.read_text(), re.MULTILINE), path


IMAGE_MODULES = sorted(IMAGE_PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", IMAGE_MODULES, ids=lambda path: str(path.relative_to(IMAGE_PACKAGE)))
def test_modules_of_oci_image_import_only_what_stands_above_them(path: Path) -> None:
    assert {name.split(".")[0] for name in imports(path)} <= OCIRT_FOR_IMAGES
    name = path.relative_to(IMAGE_PACKAGE).parts[0].removesuffix(".py")
    if name in {"__init__", "__main__"}:
        return
    assert name in IMAGE_RANK, f"put {name} into the table"
    for imported in {found.split(".")[0] for found in imports(path, "oci_image")} - {name, "__version__"}:
        assert IMAGE_RANK[imported] < IMAGE_RANK[name], f"{name} must not import {imported}"


def test_observers_share_no_code_with_appliers() -> None:
    for path in (PACKAGE / "observe").glob("*.py"):
        used = {name.split(".")[0] for name in imports(path)}
        assert not used & APPLIERS, path


def test_importing_ocirt_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import ocirt; print(set(sys.modules) - before)"
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ast.literal_eval(done.stdout) <= {"ocirt", "__future__"}


def test_no_file_is_longer_than_800_lines() -> None:
    long = [
        str(path.relative_to(ROOT))
        for path in tracked()
        if path.suffix in {".py", ".c", ".h", ".sh"} and len(path.read_text().splitlines()) > 800
    ]
    assert not long


def test_nothing_is_marked_as_unfinished() -> None:
    marked = []
    for path in tracked():
        if path.suffix in {".json", ".png"} or "tests/data" in str(path):
            continue
        text = path.read_bytes().decode("utf-8", "replace")
        marked += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MARKS.finditer(text)]
    assert not marked


def check(*words: str) -> None:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_finds_nothing() -> None:
    check(sys.executable, "-m", "ruff", "check", ".")


def test_python_is_formatted() -> None:
    check(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_types_hold() -> None:
    check(sys.executable, "-m", "mypy")


def test_c_is_formatted() -> None:
    assert shutil.which("clang-format"), "clang-format is missing: tests/install-deps does it"
    sources = [str(path) for path in tracked() if path.suffix in {".c", ".h"}]
    check("clang-format", "--dry-run", "-Werror", *sources)


def test_shell_scripts_parse() -> None:
    for path in tracked():
        if path.is_file() and path.read_bytes()[:9] == b"#!/bin/sh":
            check("sh", "-n", str(path))

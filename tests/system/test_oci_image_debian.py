"""Images of Debian's own packages, unpacked by this program and by others, compared entry by entry."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lib.debian import packages, system
from tests.lib.images import make_image, unpack
from tests.lib.runtime import Runtime
from tests.lib.trees import Tree, describe, differences
from tests.system.test_oci_image_cli import PROGRAM, succeed

pytestmark = pytest.mark.root
# Setuid programs, hardlinks, absolute and relative links, directories that several packages have.
PACKAGES = ("base-files", "base-passwd", "libc6", "dash", "login", "perl-base", "tzdata", "util-linux")


def layers(*names: str) -> list[bytes]:
    """The tar stream inside of each package, as dpkg made it."""
    return [
        subprocess.run(["dpkg-deb", "--fsys-tarfile", file], capture_output=True, check=True).stdout
        for file in packages(*names)
    ]


def without_parents(tree: Tree) -> Tree:
    """Directories get a new time from what comes into them, with some tools."""
    return {
        path: {key: value for key, value in entry.items() if key != "mtime" or entry["type"] != 0o040000}
        for path, entry in tree.items()
    }


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layout with the image n, a layer for each package."""
    layout = tmp_path_factory.mktemp("debian") / "l"
    config = {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]}
    make_image(layout, "n", *layers(*PACKAGES), config=config)
    return layout


def test_packages_are_unpacked_as_dpkg_does(tmp_path: Path, image: Path) -> None:
    unpack(image, "n", tmp_path / "ours")
    (tmp_path / "theirs").mkdir(mode=0o755)
    for file in packages(*PACKAGES):
        tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", file], capture_output=True, check=True).stdout
        words = ["tar", "-C", tmp_path / "theirs", "-xpf", "-", "--keep-directory-symlink"]
        subprocess.run(words, input=tar, check=True)
    ours, theirs = (without_parents(describe(tmp_path / name)) for name in ("ours", "theirs"))
    assert len(ours) > 2500
    assert any(entry["mode"] & 0o4000 for entry in ours.values())
    assert differences(ours, theirs) == []


def test_packages_are_unpacked_as_umoci_does(tmp_path: Path, image: Path) -> None:
    unpack(image, "n", tmp_path / "ours")
    succeed("umoci", "raw", "unpack", "--image", f"{image}:n", tmp_path / "theirs")
    ours, theirs = (describe(tmp_path / name) for name in ("ours", "theirs"))
    assert differences(ours, theirs) == []


def test_a_shell_of_packages_runs_in_a_bundle(tmp_path: Path, image: Path, runtime: Runtime) -> None:
    words = [PROGRAM, "--root", tmp_path / "r", "bundle", "--copy", f"oci:{image}:n", tmp_path / "b"]
    subprocess.run(
        [*words, "--", "/bin/sh", "-c", "read v </etc/debian_version; echo $v $((6*7))"], check=True
    )
    out = runtime("run", "--bundle", tmp_path / "b", runtime.new_id()).stdout.split()
    assert out[0].startswith("12.")
    assert out[1] == "42"


@contextmanager
def buildah(tmp_path: Path) -> Iterator[list[object]]:
    """buildah with an overlay storage of its own, which is taken away again."""
    runroot = tempfile.mkdtemp(prefix="ocirt-test-")
    words = ["buildah", "--root", tmp_path / "s", "--runroot", runroot, "--storage-driver", "overlay"]
    try:
        yield words
    finally:
        succeed(*words, "rm", "--all")
        succeed(*words, "rmi", "--all", "--force")
        subprocess.run(["umount", "--quiet", tmp_path / "s/overlay"])
        subprocess.run(["rm", "-rf", runroot, tmp_path / "s"], check=True)


def test_packages_are_unpacked_as_containers_storage_does(tmp_path: Path, image: Path) -> None:
    """What skopeo, podman and buildah unpack with: an overlay of layers."""
    unpack(image, "n", tmp_path / "ours")
    ours = describe(tmp_path / "ours")
    with buildah(tmp_path) as command:
        container = succeed(*command, "from", f"oci:{image}:n").strip()
        theirs = describe(Path(succeed(*command, "mount", container).strip()))
        theirs["."]["mode"] = 0o755  # the storage's own directory
        assert differences(without_parents(ours), without_parents(theirs)) == []


@pytest.mark.slow
def test_a_whole_system_that_buildah_changed_is_what_buildah_has(tmp_path: Path) -> None:
    """debootstrap's system by GNU tar, then removals, replacements and new files committed by buildah."""
    base = tmp_path / "base.tar"
    succeed("tar", "--format=pax", "--numeric-owner", "--one-file-system", "-C", system(), "-cf", base, ".")
    root = ["--root", tmp_path / "r"]
    succeed(PROGRAM, *root, "import", base, f"oci:{tmp_path}/l:n", "--cmd", '["/bin/bash"]')
    with buildah(tmp_path) as command:
        container = succeed(*command, "from", f"oci:{tmp_path}/l:n").strip()
        merged = Path(succeed(*command, "mount", container).strip())
        succeed("rm", "-r", merged / "usr/share/doc", merged / "etc/apt")
        (merged / "etc/apt").write_text("a file now")
        os.utime(merged / "etc/apt", (1_700_000_000, 1_700_000_000))  # buildah writes no fractions
        succeed("mkdir", "-p", merged / "usr/share/doc/new", merged / "opt/tool")
        succeed("cp", "-a", merged / "usr/share/perl5", merged / "opt/tool/lib")
        succeed("chmod", "-R", "o-r", merged / "usr/share/common-licenses")
        succeed(*command, "commit", "-q", container, f"oci:{tmp_path}/l:changed")
        ours = tmp_path / "ours"
        succeed(PROGRAM, *root, "unpack", f"oci:{tmp_path}/l:changed", ours)
        theirs = describe(merged)
        theirs["."]["mode"] = 0o755  # the storage's own directory
        assert differences(without_parents(describe(ours)), without_parents(theirs)) == []
    succeed("umoci", "raw", "unpack", "--image", f"{tmp_path}/l:changed", tmp_path / "umoci")
    assert differences(describe(ours), describe(tmp_path / "umoci")) == []


@pytest.mark.slow
def test_a_whole_system_goes_round_through_every_place(tmp_path: Path) -> None:
    """System → tar → store → docker archive → dir → OCI archive → unpack, export, squash: always the same."""
    base = tmp_path / "base.tar"
    succeed("tar", "--format=pax", "--numeric-owner", "--one-file-system", "-C", system(), "-cf", base, ".")
    command = [PROGRAM, "--root", tmp_path / "r"]
    succeed(*command, "import", base, "debian:12", "--compression", "zstd")
    places = [
        f"docker-archive:{tmp_path}/a.tar:debian:12",
        f"dir:{tmp_path}/d",
        f"oci-archive:{tmp_path}/o.tar",
    ]
    before = "debian:12"
    for place in places:
        succeed(*command, "copy", before, place)
        before = place
    succeed(*command, "unpack", before, tmp_path / "out")
    wanted = describe(system())
    assert len(wanted) > 5000
    assert differences(describe(tmp_path / "out"), wanted) == []
    succeed(*command, "squash", "debian:12", "squashed")
    succeed(*command, "unpack", "squashed", tmp_path / "squashed")
    assert differences(describe(tmp_path / "squashed"), wanted) == []
    succeed(
        "umoci", "raw", "unpack", "--image", f"{tmp_path}/r/layout:{squashed_gzip(tmp_path)}", tmp_path / "u"
    )
    assert differences(describe(tmp_path / "u"), wanted) == []


def squashed_gzip(tmp_path: Path) -> str:
    index = json.loads((tmp_path / "r/layout/index.json").read_text())
    names = [one["annotations"]["org.opencontainers.image.ref.name"] for one in index["manifests"]]
    return str(next(name for name in names if "squashed" in name))

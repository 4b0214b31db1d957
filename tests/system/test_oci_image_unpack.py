"""What is unpacked, entry by entry, beside what tar, bsdtar, umoci and podman make of the same layers."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from oci_image.store import Store
from tests.lib.images import make_image, unpack
from tests.lib.trees import describe, differences

pytestmark = pytest.mark.root

PROGRAM = os.environ.get("OCI_IMAGE") or str(Path(sys.executable).parent / "oci-image")
# Directories of this machine: some thousand entries of what Debian's packages hold.
REAL = ("etc", "usr/share/perl5", "usr/share/zoneinfo", "usr/sbin")


def succeed(*words: object, **options: object) -> str:
    arguments = {"capture_output": True, "text": True, "timeout": 300, **options}
    done = subprocess.run([str(word) for word in words], **arguments)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with everything a layer can hold."""
    root = tmp_path_factory.mktemp("real") / "root"
    for name in REAL:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        succeed("cp", "-a", f"/{name}", root / name)
    special = root / "special"
    special.mkdir(mode=0o2755)
    (special / "file").write_text("content")
    os.utime(special / "file", ns=(0, 1_600_000_000_123_456_789))
    os.chown(special / "file", 1234, 2345)
    (special / "file").chmod(0o6755)
    os.setxattr(special / "file", "user.note", b"a\x00b")
    os.setxattr(special / "file", "security.capability", struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    os.link(special / "file", special / "hard")
    (special / "link").symlink_to("/absolute/and/dangling")
    os.lchown(special / "link", 5, 6)
    os.mkfifo(special / "fifo", 0o640)
    os.mknod(special / "null", 0o20666, os.makedev(1, 3))
    (special / "n" / ("l" * 200)).mkdir(parents=True)
    (special / "n" / ("l" * 200) / ("m" * 200)).write_text("long")
    with (special / "sparse").open("wb") as file:
        file.seek(30_000_000)
        file.write(b"end")
    succeed("setfacl", "-m", "u:98765:r--", special / "file")
    succeed("setfacl", "-d", "-m", "g:98766:rwx", special)
    return root


TAR = ["tar", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"]


@pytest.mark.parametrize(("form", "compression"), [("pax", "gzip"), ("sparse", "zstd"), ("bsdtar", "")])
def test_a_real_tree_arrives_as_it_was(tmp_path: Path, real: Path, form: str, compression: str) -> None:
    if form == "bsdtar":
        words = ["bsdtar", "--format=pax", "--xattrs", "--acls", "--numeric-owner"]
    else:
        words = [*TAR, "--format=pax", *(["-S"] if form == "sparse" else [])]
    succeed(*words, "-C", real, "-cf", tmp_path / "layer.tar", ".")
    make_image(tmp_path / "l", "n", (tmp_path / "layer.tar").read_bytes(), compression=compression)
    assert unpack(tmp_path / "l", "n", tmp_path / "out") == {}
    assert differences(describe(real), describe(tmp_path / "out")) == []
    if form == "sparse":
        assert (tmp_path / "out/special/sparse").stat().st_blocks * 512 < 1 << 20


def test_umoci_makes_the_same_of_it(tmp_path: Path, real: Path) -> None:
    """umoci 0.4 knows no ACLs in text form and truncates times to what it writes."""
    succeed(
        *TAR[:1], "--xattrs", "--xattrs-include=*", "--format=pax", "-C", real, "-cf", tmp_path / "1.tar", "."
    )
    make_image(tmp_path / "l", "n", (tmp_path / "1.tar").read_bytes())
    unpack(tmp_path / "l", "n", tmp_path / "ours")
    succeed("umoci", "raw", "unpack", "--image", f"{tmp_path}/l:n", tmp_path / "theirs")
    assert differences(describe(tmp_path / "ours"), describe(tmp_path / "theirs")) == []


def test_layers_that_umoci_makes_are_applied_as_umoci_does(tmp_path: Path, real: Path) -> None:
    """Removed, replaced and changed files, and a directory that becomes a file, as whiteouts."""
    succeed("tar", "--format=pax", "-C", real, "-cf", tmp_path / "base.tar", "etc", "special")
    make_image(tmp_path / "l", "n", (tmp_path / "base.tar").read_bytes())
    succeed("umoci", "unpack", "--image", f"{tmp_path}/l:n", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    (root / "etc/passwd").unlink()
    succeed("rm", "-r", root / "etc/apt", root / "special/n")
    (root / "etc/apt").write_text("a file now")
    (root / "etc/hostname").write_text("changed")
    (root / "new").mkdir(mode=0o711)
    (root / "new/file").write_text("new")
    os.link(root / "new/file", root / "new/hard")
    (root / "special/link").unlink()
    (root / "special/link").mkdir()
    succeed("umoci", "repack", "--image", f"{tmp_path}/l:changed", tmp_path / "bundle")
    unpack(tmp_path / "l", "changed", tmp_path / "ours")
    succeed("umoci", "raw", "unpack", "--image", f"{tmp_path}/l:changed", tmp_path / "theirs")
    assert differences(describe(tmp_path / "ours"), describe(tmp_path / "theirs")) == []
    assert differences(describe(tmp_path / "ours", ["mtime"]), describe(root, ["mtime"])) == []


def test_layers_that_buildah_makes_are_applied(tmp_path: Path) -> None:
    storage = ["buildah", "--root", tmp_path / "s", "--runroot", tmp_path / "r", "--storage-driver", "vfs"]
    (tmp_path / "Containerfile").write_text(
        "FROM scratch\nCOPY --chown=7:8 one /d/one\nCOPY two /d/two\nADD three.tar /d\n"
    )
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    (tmp_path / "three").symlink_to("one")
    succeed("tar", "-C", tmp_path, "-cf", tmp_path / "three.tar", "three")
    try:
        succeed(*storage, "bud", "--layers", "--isolation", "chroot", "-t", "t", tmp_path)
        succeed(*storage, "push", "t", f"oci:{tmp_path}/l:t")
    finally:
        succeed(*storage, "rmi", "--all", "--force")
    with Store.open(f"{tmp_path}/l") as store:
        assert store.find("t")
    unpack(tmp_path / "l", "t", tmp_path / "out")
    tree = describe(tmp_path / "out")
    assert tree["d/one"]["owner"] == (7, 8)
    assert (tmp_path / "out/d/two").read_text() == "two"
    assert tree["d/three"]["link"] == "one"


def test_export_and_unpack_agree(tmp_path: Path, real: Path) -> None:
    """The merged tar stream, extracted by GNU tar, is what unpack makes."""
    succeed("tar", "--format=pax", "-C", real, "-cf", tmp_path / "base.tar", "etc", "special")
    succeed("tar", "--format=pax", "-C", real, "-cf", tmp_path / "top.tar", "special", "usr/share/zoneinfo")
    layers = [(tmp_path / name).read_bytes() for name in ("base.tar", "top.tar")]
    make_image(tmp_path / "l", "n", *layers)
    succeed(PROGRAM, "--root", tmp_path, "unpack", f"oci:{tmp_path}/l:n", tmp_path / "ours")
    succeed(PROGRAM, "--root", tmp_path, "export", f"oci:{tmp_path}/l:n", "-o", tmp_path / "flat.tar")
    (tmp_path / "theirs").mkdir()
    target = tmp_path / "theirs"
    succeed(*TAR, "--delay-directory-restore", "-C", target, "-xpf", tmp_path / "flat.tar")
    made = {"usr", "usr/share", "."}  # no layer has an entry for them: the time is that of unpacking
    ours, theirs = (
        {path: entry for path, entry in describe(tmp_path / name).items() if path not in made}
        for name in ("ours", "theirs")
    )
    assert differences(ours, theirs) == []


def test_kill_9_while_unpacking_leaves_nothing_at_the_target(tmp_path: Path, real: Path) -> None:
    succeed("tar", "--format=pax", "-C", real, "-cf", tmp_path / "1.tar", "usr/share/zoneinfo")
    make_image(tmp_path / "l", "n", (tmp_path / "1.tar").read_bytes())
    words = [
        "strace",
        "-o",
        "/dev/null",
        "-e",
        "trace=symlinkat",
        "-e",
        "inject=symlinkat:signal=SIGKILL:when=20",
    ]
    done = subprocess.run([*words, PROGRAM, "unpack", f"oci:{tmp_path}/l:n", tmp_path / "out"])
    assert done.returncode in (-9, 137)
    assert not (tmp_path / "out").exists()


def test_memory_stays_small_whatever_the_size(tmp_path: Path) -> None:
    """At most 100 MB for a layer of 400 MB, in one file and in many."""
    (tmp_path / "root").mkdir()
    block = os.urandom(1 << 20)
    with (tmp_path / "root/large").open("wb") as file:
        for _ in range(300):
            file.write(block)
    for i in range(2000):
        (tmp_path / f"root/{i}").write_bytes(block[:50_000])
    succeed("tar", "-C", tmp_path / "root", "-cf", tmp_path / "1.tar", ".")
    succeed(PROGRAM, "--root", tmp_path / "r", "import", tmp_path / "1.tar", "n", "--compression", "zstd")
    time = ["/usr/bin/env", "python3", "-c", RSS]
    told = succeed(*time, PROGRAM, "--root", tmp_path / "r", "unpack", "n", tmp_path / "out")
    assert int(told) < 100_000


RSS = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def acl_of(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def test_acls_that_name_users_mean_those_of_the_image(tmp_path: Path) -> None:
    """GNU tar writes names without numbers; the image's daemon and games are not this machine's."""
    root = tmp_path / "root"
    for name in ("a/default", "etc"):
        (root / name).mkdir(parents=True)
    (root / "a/listed").write_text("x")
    succeed("setfacl", "-m", "u:daemon:r,g:games:w,u:98765:x", root / "a/listed")
    succeed("setfacl", "-d", "-m", "u:daemon:rwx", root / "a/default")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\ndaemon:x:4242:0::/:\n")
    (root / "etc/group").write_text("games:x:4343:\n")
    none = 0xFFFFFFFF
    listed = acl_of(
        (1, 6, none), (2, 4, 4242), (2, 1, 98765), (4, 4, none), (8, 2, 4343), (16, 7, none), (32, 4, none)
    )
    default = acl_of((1, 7, none), (2, 7, 4242), (4, 5, none), (16, 7, none), (32, 5, none))
    succeed("tar", "-C", root, "--acls", "--format=pax", "-cf", tmp_path / "layer.tar", ".")
    layer = (tmp_path / "layer.tar").read_bytes()
    assert b"user:daemon:" in layer
    oci = [PROGRAM, "--root", tmp_path / "store"]
    succeed(*oci, "import", tmp_path / "layer.tar", "app", "--cmd", '["/x"]')
    succeed(*oci, "squash", "app", "flat")
    succeed(*oci, "unpack", "app", tmp_path / "1")
    succeed(*oci, "unpack", "flat", tmp_path / "2")
    succeed(*oci, "bundle", "--driver", "vfs", "app", tmp_path / "b")
    succeed(*oci, "unpack", "--uid-map", "0:300000:100000", "app", tmp_path / "shifted")
    for made in (tmp_path / "1", tmp_path / "2", tmp_path / "b/rootfs"):
        assert os.getxattr(made / "a/listed", "system.posix_acl_access") == listed
        assert os.getxattr(made / "a/default", "system.posix_acl_default") == default
        assert "system.posix_acl_access" not in os.listxattr(made / "a")
    assert struct.pack("<I", 304242) in os.getxattr(tmp_path / "shifted/a/listed", "system.posix_acl_access")
    succeed(*oci, "unbundle", tmp_path / "b")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    succeed("tar", "-C", root, "--acls", "--format=pax", "-cf", tmp_path / "layer.tar", ".")
    succeed(*oci, "import", tmp_path / "layer.tar", "unknown")
    done = subprocess.run(
        [*map(str, oci), "unpack", "unknown", tmp_path / "3"], capture_output=True, text=True
    )
    assert done.stderr.endswith(": ACL: the image's /etc/passwd has no user 'daemon'\n")
    assert not (tmp_path / "3").exists()

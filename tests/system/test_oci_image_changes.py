"""What a container changed, on every driver: told, committed, and there again in the next bundle."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lib.filesystems import mounted
from tests.lib.images import make_image, member, tar_of
from tests.lib.runtime import Runtime
from tests.lib.trees import describe, differences
from tests.system.test_oci_image_bundle import BASE
from tests.system.test_oci_image_cli import Command
from tests.system.test_oci_image_drivers import unmount_below

pytestmark = pytest.mark.root
DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
MAPS = ["--uid-map", "0:300000:1000"]
WAYS = {
    "overlay": ["--driver", "overlay"],
    "overlay, shifted": ["--driver", "overlay", *MAPS],
    "fuse-overlayfs": ["--driver", "fuse-overlayfs"],
    "fuse-overlayfs, shifted": ["--driver", "fuse-overlayfs", *MAPS],
    "btrfs": ["--driver", "btrfs"],
    "btrfs, shifted": ["--driver", "btrfs", *MAPS],
    "vfs": ["--driver", "vfs"],
    "vfs, shifted": ["--driver", "vfs", *MAPS],
    "copy": ["--copy"],
    "copy, shifted": ["--copy", *MAPS],
}
SECOND = tar_of(
    member("lower", DIR, mtime=5),
    ("lower/kept", "k"),
    ("lower/same-size", "one"),
    ("lower/removed", "r"),
    member("lower/chmod", mode=0o600),
    member("opaque", DIR),
    ("opaque/one", "1"),
    member("opaque/sub", DIR),
    ("opaque/sub/two", "2"),
    ("opaque/sub/again", "3"),
    member("becomes-file", DIR),
    ("becomes-file/x", "x"),
    ("becomes-dir", "was a file"),
    ("becomes-link", "was a file"),
    member("link-becomes-dir", LINK, linkname="/etc"),
    ("pair/a", "hard"),
    member("pair/b", HARD, linkname="pair/a"),
    ("single", "alone"),
    member("moved", DIR),
    ("moved/in", "m"),
    member("a", DIR),
    ("a/x", ""),
    ("a-b", ""),
    member("untouched", DIR, mode=0o700),
    ("untouched/file", "u"),
)
# In the container, by busybox.
SCRIPT = """
set -e
B=/bin/busybox
echo two > /lower/same-size; $B touch -d @1700000000 /lower/same-size
$B rm /lower/removed
$B chmod 640 /lower/chmod
$B rm -r /opaque; $B mkdir /opaque /opaque/sub; echo new > /opaque/three; echo 4 > /opaque/sub/again
$B rm -r /becomes-file; echo file > /becomes-file
$B rm /becomes-dir; $B mkdir /becomes-dir; echo in > /becomes-dir/in
$B rm /becomes-link; $B ln -s /no/where /becomes-link
$B rm /link-becomes-dir; $B mkdir /link-becomes-dir; echo mine > /link-becomes-dir/passwd
$B rm /pair/b; $B cp -p /pair/a /pair/b
$B ln /single /second
$B mv /moved /elsewhere
echo x > /a/x; echo y > /a-b
$B mkdir -p /new/deep; echo f > /new/deep/file; $B ln /new/deep/file /new/hard
$B chown 33:33 /new/deep/file; $B chmod 4711 /new/deep/file
$B mkfifo /new/fifo
$B chmod 1777 /
"""


class Place:
    def __init__(self, path: Path, words: list[str]) -> None:
        self.path = path
        self.words = words
        self.oci = Command(path / "root")
        self.image = f"oci:{path}/l:base"

    def bundle(self, image: str, name: str, *words: str) -> Path:
        self.oci("bundle", *self.words, image, self.path / name, *(words or ("--", "/bin/sh")))
        return self.path / name


@pytest.fixture(params=WAYS.values(), ids=WAYS.keys())
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        stack.callback(unmount_below, tmp_path)
        path = stack.enter_context(mounted("btrfs", tmp_path)) if "btrfs" in request.param else tmp_path
        stack.callback(unmount_below, path)
        make_image(path / "l", "base", BASE, SECOND)
        for parent in (path, *path.parents[:-2]):
            parent.chmod(parent.stat().st_mode | 0o055)
        yield Place(path, request.param)


def change_as_root(root: Path) -> None:
    """What a container has no right to."""
    owner = root.stat().st_uid
    for name, kind, device in (("null", stat.S_IFCHR, (1, 3)), ("disk", stat.S_IFBLK, (8, 1))):
        os.mknod(root / name, kind | 0o640, os.makedev(*device))
        os.chown(root / name, owner, owner)
    os.setxattr(root / "lower/kept", "user.note", b"v")
    os.setxattr(root / "untouched", "user.note", b"d")


def test_what_a_container_did_is_told_committed_and_there_again(place: Place, runtime: Runtime) -> None:
    made = place.bundle(place.image, "b", "--", "/bin/sh", "-c", SCRIPT)
    assert place.oci("diff", made).stdout == ""
    for name in ("proc", "dev", "sys"):  # the runtime makes them where they are missing
        os.mkdir(made / "rootfs" / name)
        os.chown(made / "rootfs" / name, *[made.joinpath("rootfs").stat().st_uid] * 2)
    done = runtime("run", "--bundle", made, runtime.new_id())
    assert (done.returncode, done.stderr) == (0, "")
    change_as_root(made / "rootfs")
    told = place.oci("diff", made).stdout.splitlines()
    assert told == sorted(told, key=lambda line: os.fsencode(line[2:]))
    assert set(told) == {
        "C /a", "C /a-b", "C /a/x", "C /becomes-dir", "A /becomes-dir/in", "C /becomes-file",
        "C /becomes-link", "A /dev", "A /disk", "A /elsewhere", "A /elsewhere/in", "C /link-becomes-dir",
        "A /link-becomes-dir/passwd", "C /lower", "C /lower/chmod", "C /lower/kept", "D /lower/removed",
        "C /lower/same-size", "D /moved", "A /new", "A /new/deep", "A /new/deep/file", "A /new/fifo",
        "A /new/hard", "A /null", "C /opaque", "D /opaque/one", "C /opaque/sub", "C /opaque/sub/again",
        "D /opaque/sub/two", "A /opaque/three", "C /pair", "C /pair/b", "A /proc", "A /second", "C /single",
        "A /sys", "C /untouched",
    } | ({"C /pair/a"} if "C /pair/a" in told else set())  # fmt: skip
    place.oci("commit", made, "after", "--cmd", '["/bin/sh"]')
    assert place.oci("fsck").stdout == "nothing is wrong\n"
    again = place.bundle("after", "again")
    without = ["same as"] if {"overlay", "fuse-overlayfs"} & set(place.words) else []
    made_of_itself = {"data", "etc"}  # no layer has an entry: their time is that of unpacking
    trees = [
        {
            path: entry
            for path, entry in describe(one / "rootfs", without).items()
            if path not in made_of_itself
        }
        for one in (made, again)
    ]
    assert differences(*trees) == []
    assert place.oci("diff", again).stdout == ""
    plain = describe(again / "rootfs")
    assert plain["new/hard"]["same as"] == plain["new/deep/file"]["same as"]
    assert plain["second"]["same as"] == plain["single"]["same as"]
    assert plain["pair/b"]["same as"] != plain["pair/a"]["same as"]
    place.oci("unpack", "after", place.path / "out")
    owners = describe(place.path / "out")
    assert owners["new/deep/file"]["owner"] == (33, 33)
    assert {owners[name]["owner"] for name in (".", "new", "null", "opaque", "becomes-file")} == {(0, 0)}
    place.oci("unbundle", made, again)


def test_what_only_looks_changed_is_not_told(tmp_path: Path) -> None:
    """Read, touched to the same time, renamed and renamed back, changed and changed back: on a whole tree."""
    make_image(tmp_path / "l", "base", BASE, SECOND)
    place = Place(tmp_path, ["--copy"])
    made = place.bundle(place.image, "b")
    root = made / "rootfs"
    for name in ("lower/kept", "lower/same-size"):
        status = (root / name).stat()
        (root / name).write_text((root / name).read_text())
        os.utime(root / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    (root / "single").chmod(0o600)
    (root / "single").chmod(0o644)
    assert place.oci("diff", made).stdout == ""
    status = (root / "lower/kept").stat()
    (root / "lower/kept").write_text("K")  # of the same size, with the same mtime
    os.utime(root / "lower/kept", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert place.oci("diff", made).stdout == "C /lower\nC /lower/kept\n"


def test_all_is_new_in_an_image_without_layers(tmp_path: Path) -> None:
    make_image(tmp_path / "l", "base")
    for words in (["--driver", "vfs"], ["--copy"]):
        place = Place(tmp_path, words)
        made = place.bundle(place.image, "b")
        assert place.oci("diff", made).stdout == ""
        (made / "rootfs/new").touch()
        assert place.oci("diff", made).stdout == "A /new\n"
        place.oci("commit", made, "after")
        assert len(place.oci.json("inspect", "after")["manifest"]["layers"]) == 1
        place.oci("unbundle", made)
    told = place.oci.fails("bundle", "--driver", "overlay", place.image, tmp_path / "b", "--", "/x")
    assert told.endswith("an image without layers has nothing to lay an overlay on")


def test_a_bundle_that_was_moved_is_compared_file_by_file(tmp_path: Path) -> None:
    """No ctime tells what is old in a copy of a bundle."""
    make_image(tmp_path / "l", "base", SECOND)
    place = Place(tmp_path, ["--copy"])
    made = place.bundle(place.image, "b")
    subprocess.run(["cp", "-a", made, tmp_path / "moved"], check=True)
    (tmp_path / "moved/rootfs/single").write_text("other")
    told = place.oci("diff", tmp_path / "moved").stdout.splitlines()
    assert set(told) - {"C /pair"} == {"C /single"}  # no layer has an entry for /pair


@pytest.mark.parametrize("how", ["copied", "record touched", "clock set back"])
@pytest.mark.parametrize("words", [["--driver", "vfs"], ["--copy"]], ids=["vfs", "copy"])
def test_what_was_changed_before_is_told_of_a_bundle(tmp_path: Path, words: list[str], how: str) -> None:
    make_image(tmp_path / "l", "base", SECOND)
    place = Place(tmp_path, words)
    made = place.bundle(place.image, "b")
    (made / "rootfs/single").write_text("other")
    (made / "rootfs/lower/chmod").chmod(0o640)
    if how == "copied":
        subprocess.run(["cp", "-a", made, tmp_path / "again"], check=True)
        made = tmp_path / "again"
    record = made / "oci-image.json"
    if how == "clock set back":
        said = json.loads(record.read_text())
        record.write_text(json.dumps({**said, "made": said["made"] + 3_600_000_000_000}))
    record.touch()
    told = place.oci("diff", made).stdout.splitlines()
    assert set(told) - {"C /pair"} == {"C /lower", "C /lower/chmod", "C /single"}


def test_holes_of_a_committed_file_stay_holes(tmp_path: Path) -> None:
    """Six gigabytes of zeros would be refused as a bomb by whoever unpacks the layer."""
    make_image(tmp_path / "l", "base", BASE)
    place = Place(tmp_path, ["--copy"])
    made = place.bundle(place.image, "b")
    size = 6 << 30
    pieces = {5000: b"first", 3 << 20: os.urandom(9000), size - 3: b"end"}
    with (made / "rootfs/big").open("wb") as file:
        for offset, data in pieces.items():
            file.seek(offset)
            file.write(data)
    (made / "rootfs/nothing").touch()
    os.truncate(made / "rootfs/nothing", 1 << 20)
    place.oci("commit", made, "after")
    after = place.bundle("after", "after") / "rootfs"
    assert (after / "big").stat().st_size == size
    assert (after / "big").stat().st_blocks * 512 < 200_000
    with (after / "big").open("rb") as file:
        for offset, data in pieces.items():
            file.seek(offset - 1)
            assert file.read(len(data) + 1) == b"\0" + data
    assert (after / "nothing").read_bytes() == bytes(1 << 20)
    place.oci("cp", f"bundle:{made}:/big", tmp_path)
    assert (tmp_path / "big").stat().st_blocks * 512 < 200_000


def test_where_a_file_system_has_holes_does_not_matter_to_a_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    make_image(tmp_path / "l", "base", BASE)
    place = Place(tmp_path, ["--copy"])
    made = place.bundle(place.image, "b")
    digests = set()
    for zeros in (range(0), range(3), range(5, 90)):  # blocks that are there, with nothing in them
        path = made / "rootfs/big"
        path.unlink(missing_ok=True)
        path.touch()
        os.truncate(path, 1 << 20)
        with path.open("r+b") as file:
            for block in zeros:
                os.pwrite(file.fileno(), bytes(4096), block * 4096)
            os.pwrite(file.fileno(), b"x", 100 * 4096 + 7)
        place.oci("commit", made, "after")
        digests.add(place.oci.json("inspect", "after")["config"]["rootfs"]["diff_ids"][-1])
    assert len(digests) == 1


@pytest.mark.parametrize("words", [["--driver", "overlay"], ["--copy"]], ids=["overlay", "copy"])
def test_a_name_that_would_be_a_whiteout_is_refused(tmp_path: Path, words: list[str]) -> None:
    """A container must not remove files of the next one by the name of a file."""
    make_image(tmp_path / "l", "base", BASE)
    place = Place(tmp_path, words)
    made = place.bundle(place.image, "b")
    try:
        (made / "rootfs/.wh.etc").touch()
        told = place.oci.fails("commit", made, "after")
        assert told.endswith("/.wh.etc: a layer cannot hold a name that begins with .wh.")
        assert place.oci.json("images") == []
    finally:
        place.oci("unbundle", made)


@pytest.mark.parametrize("words", [["--driver", "overlay"], ["--copy"]], ids=["overlay", "copy"])
def test_sockets_are_told_and_not_committed(tmp_path: Path, words: list[str]) -> None:
    make_image(tmp_path / "l", "base", BASE)
    place = Place(tmp_path, words)
    made = place.bundle(place.image, "b")
    (made / "rootfs/run").mkdir()
    here = os.open(made / "rootfs/run", os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    assert place.oci("diff", made).stdout == "A /run\nA /run/socket\n"
    place.oci("commit", made, "after")
    place.oci("unpack", "after", tmp_path / "out")
    assert os.listdir(tmp_path / "out/run") == []
    place.oci("unbundle", made)


def test_capabilities_and_acls_of_a_user_namespace_are_the_image_s(tmp_path: Path, runtime: Runtime) -> None:
    """Shifted with the owners, and back in a commit: capabilities of a file, an ACL that names a user."""
    caps = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 33),
            (4, 4, 0xFFFFFFFF),
            (16, 4, 0xFFFFFFFF),
            (32, 0, 0xFFFFFFFF),
        )
    )
    make_image(tmp_path / "l", "plain", BASE)
    place = Place(tmp_path, ["--copy"])
    base = place.bundle(f"oci:{tmp_path}/l:plain", "base")
    shutil.copy("/bin/busybox", base / "rootfs/bin/capable")
    os.setxattr(base / "rootfs/bin/capable", "security.capability", caps)
    (base / "rootfs/listed").write_text("x")
    os.setxattr(base / "rootfs/listed", "system.posix_acl_access", acl)
    place.oci("commit", base, "base")
    place.oci("unbundle", base)
    for words in (["--copy", *MAPS], ["--driver", "vfs", *MAPS]):
        made = Place(tmp_path, words).bundle("base", "b")
        rootfs = made / "rootfs"
        assert os.getxattr(rootfs / "bin/capable", "security.capability") == struct.pack(
            "<6I", 0x03000001, 1 << 10, 0, 0, 0, 300000
        )
        assert os.getxattr(rootfs / "listed", "system.posix_acl_access") == acl[:12] + acl[12:].replace(
            struct.pack("<I", 33), struct.pack("<I", 300033)
        )
        for name in ("bin/capable", "listed"):
            (rootfs / name).write_bytes((rootfs / name).read_bytes())
        assert place.oci("diff", made).stdout.splitlines()[-2:] == ["C /bin/capable", "C /listed"]
        place.oci("commit", made, "after")
        place.oci("unpack", "after", tmp_path / "out")
        assert os.getxattr(tmp_path / "out/listed", "system.posix_acl_access") == acl
        shutil.rmtree(tmp_path / "out")
        place.oci("unbundle", made)

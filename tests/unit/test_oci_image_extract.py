"""Layers applied to a directory: what is there afterwards."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oci_image.errors import ImageError
from oci_image.store import Store
from tests.lib.images import make_image, member, tar_of, unpack
from tests.lib.trees import describe

pytestmark = pytest.mark.root
DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
BASE = tar_of(member("d", DIR), ("d/a", "a"), ("d/b", "b"), ("top", "t"))


def applied(path: Path, *layers: bytes, compression: str = "gzip", single: bool = False) -> Path:
    make_image(path / "l", "n", *layers, compression=compression)
    unpack(path / "l", "n", path / "out", single)
    return path / "out"


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_everything_about_a_file_arrives(tmp_path: Path, compression: str) -> None:
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    records = {"mtime": "1500000000.123456789", "SCHILY.xattr.user.note": "text"}
    info = member("file", mode=0o6751, uid=1234, gid=4321, pax_headers=records)
    info.pax_headers["SCHILY.xattr.security.capability"] = capability.decode("latin-1")
    data = tar_of((info, b"content"))
    out = applied(tmp_path, data, compression=compression)
    status = (out / "file").lstat()
    assert stat.S_IMODE(status.st_mode) == 0o6751
    assert (status.st_uid, status.st_gid) == (1234, 4321)
    assert status.st_mtime_ns == 1500000000123456789
    assert os.getxattr(out / "file", "user.note") == b"text"
    assert os.getxattr(out / "file", "security.capability") == capability
    assert (out / "file").read_text() == "content"


def test_devices_fifos_and_links_are_made(tmp_path: Path) -> None:
    out = applied(
        tmp_path,
        tar_of(
            member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666, uid=7),
            member("disk", tarfile.BLKTYPE, devmajor=7, devminor=200, mode=0o640),
            member("fifo", tarfile.FIFOTYPE, mode=0o622),
            member("link", LINK, linkname="/nowhere/at/all", uid=8, mtime=5),
            ("file", "x"),
            member("hard", HARD, linkname="file", mode=0o777, uid=99),
        ),
    )
    tree = describe(out)
    assert (tree["null"]["rdev"], tree["null"]["mode"]) == (os.makedev(1, 3), 0o666)
    assert tree["null"]["owner"] == (7, 0)
    assert tree["disk"]["rdev"] == os.makedev(7, 200)
    assert (tree["fifo"]["type"], tree["fifo"]["mode"]) == (stat.S_IFIFO, 0o622)
    assert (tree["link"]["link"], tree["link"]["owner"], tree["link"]["mtime"]) == (
        "/nowhere/at/all",
        (8, 0),
        5 * 10**9,
    )
    assert tree["hard"]["same as"] == "file"
    assert tree["file"]["mode"] == 0o644  # the file's own, not the link's


def test_directories_keep_their_times_modes_and_attributes(tmp_path: Path) -> None:
    entries = ((0x01, 7), (0x04, 5), (0x20, 0))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *one, 0xFFFFFFFF) for one in entries)
    info = member("d", DIR, mode=0o2750, mtime=111)
    info.pax_headers = {"SCHILY.acl.default": "user::rwx,group::r-x,other::---"}
    out = applied(tmp_path, tar_of(info, ("d/f", "x"), member("d/sub", DIR, mtime=222), ("d/sub/g", "y")))
    assert os.getxattr(out / "d", "system.posix_acl_default") == acl
    assert (out / "d").stat().st_mtime == 111
    assert (out / "d/sub").stat().st_mtime == 222
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0o2750
    for path in ("d/f", "d/sub"):  # neither the ACL nor the group was inherited
        assert [name for name in os.listxattr(out / path) if "acl" in name] == []
        assert (out / path).stat().st_gid == 0
    assert stat.S_IMODE((out / "d/f").stat().st_mode) == 0o644
    assert stat.S_IMODE((out / "d/sub").stat().st_mode) == 0o755


def test_the_root_gets_its_entry(tmp_path: Path) -> None:
    out = applied(tmp_path, tar_of(member("./", DIR, mode=0o711, uid=5, mtime=99)))
    status = out.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o711, 5, 99)


def test_the_directory_around_has_no_say(tmp_path: Path) -> None:
    subprocess.run(["setfacl", "-d", "-m", "u:12:rwx", tmp_path], check=True)
    tmp_path.chmod(0o2755)
    old = os.umask(0o077)
    try:
        out = applied(tmp_path, tar_of(("f", ""), ("a/b", "")))
    finally:
        os.umask(old)
    tree = describe(out)
    assert all(not entry["xattrs"] for entry in tree.values())
    assert {path: entry["mode"] for path, entry in tree.items()} == {
        ".": 0o755,
        "a": 0o755,
        "a/b": 0o644,
        "f": 0o644,
    }


def test_sparse_files_have_holes(tmp_path: Path) -> None:
    info = member("f", pax_headers={"GNU.sparse.map": "4096,4096,50000000,1", "GNU.sparse.size": "60000000"})
    out = applied(tmp_path, tar_of((info, b"x" * 4096 + b"y")))
    status = (out / "f").stat()
    assert status.st_size == 60_000_000
    assert status.st_blocks * 512 < 100_000
    content = (out / "f").read_bytes()
    assert (content[4095:4097], content[50_000_000:50_000_001], content.count(b"\0")) == (
        b"\0x",
        b"y",
        60_000_000 - 4097,
    )


def test_long_names_and_any_bytes_in_names(tmp_path: Path) -> None:
    name = b"\xff\xfe" + b"n" * 200
    deep = "/".join(["d" * 200] * 15) + "/f"
    data = tar_of((member(os.fsdecode(name)), b""), (deep, "deep"))
    out = applied(tmp_path, data)
    assert name in os.listdir(os.fsencode(out))
    assert (out / deep).read_text() == "deep"


# Layers above layers


def test_whiteouts_hide_what_lower_layers_have(tmp_path: Path) -> None:
    assert names(applied(tmp_path / "1", BASE, tar_of(("d/.wh.a", ""), (".wh.top", "")))) == ["d", "d/b"]
    assert names(applied(tmp_path / "2", BASE, tar_of((".wh.d", "")))) == ["top"]
    assert names(applied(tmp_path / "3", BASE, tar_of((".wh.nosuch", ""), ("x/.wh.y", "")))) == [
        "d",
        "d/a",
        "d/b",
        "top",
    ]


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_hide_nothing_of_their_own_layer(tmp_path: Path, first: bool) -> None:
    new = [("d/new", "n"), ("d/sub/x", "x"), ("top", "new")]
    hide = [("d/.wh..wh..opq", ""), (".wh.top", ""), ("d/.wh.sub", "")]
    lower = tar_of(member("d", DIR), ("d/a", "a"), ("d/sub/y", "y"), ("top", "t"))
    out = applied(tmp_path, lower, tar_of(*(hide + new if first else new + hide)))
    assert names(out) == ["d", "d/new", "d/sub", "d/sub/x", "top"]
    assert (out / "top").read_text() == "new"


def test_an_opaque_root_hides_everything_below(tmp_path: Path) -> None:
    assert names(applied(tmp_path, BASE, tar_of((".wh..wh..opq", ""), ("new", "")))) == ["new"]


def test_a_directory_merges_and_gets_the_upper_attributes_alone(tmp_path: Path) -> None:
    lower = tar_of(member("d", DIR, pax_headers={"SCHILY.xattr.user.old": "1"}), ("d/a", "a"))
    upper = tar_of(member("d", DIR, mode=0o700, pax_headers={"SCHILY.xattr.user.new": "2"}), ("d/c", "c"))
    out = applied(tmp_path, lower, upper)
    assert names(out) == ["d", "d/a", "d/c"]
    assert os.listxattr(out / "d") == ["user.new"]
    assert stat.S_IMODE((out / "d").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["file", "dir", "link", "fifo", "hard", "null"])
@pytest.mark.parametrize("over", ["file", "dir", "link", "fifo"])
def test_everything_replaces_everything(tmp_path: Path, kind: str, over: str) -> None:
    made: dict[str, Any] = {
        "file": (member("x"), b"new"),
        "dir": member("x", DIR),
        "link": member("x", LINK, linkname="keep"),
        "fifo": member("x", tarfile.FIFOTYPE),
        "hard": member("x", HARD, linkname="keep"),
        "null": member("x", tarfile.CHRTYPE, devmajor=1, devminor=3),
    }
    lower = [made[over], ("keep", "kept")] + ([("x/below", "")] if over == "dir" else [])
    out = applied(tmp_path, tar_of(*lower), tar_of(made[kind]))
    types = {"dir": stat.S_IFDIR, "link": stat.S_IFLNK, "fifo": stat.S_IFIFO, "null": stat.S_IFCHR}
    assert stat.S_IFMT((out / "x").lstat().st_mode) == types.get(kind, stat.S_IFREG)
    assert (out / "keep").read_text() == "kept"
    assert (out / "x/below").exists() == (kind == over == "dir")


def test_a_replaced_file_does_not_change_its_other_names(tmp_path: Path) -> None:
    lower = tar_of(("one", "old"), member("two", HARD, linkname="one"))
    out = applied(tmp_path, lower, tar_of(("one", "new")))
    assert ((out / "one").read_text(), (out / "two").read_text()) == ("new", "old")


def test_a_hardlink_may_lead_to_a_lower_layer_and_repeat(tmp_path: Path) -> None:
    upper = tar_of(member("h", HARD, linkname="/d/a"), member("h", HARD, linkname="d/a"))
    out = applied(tmp_path, BASE, upper)
    assert (out / "h").samefile(out / "d/a")


def test_parents_that_are_symlinks_are_followed_within_the_root(tmp_path: Path) -> None:
    links = [member("bin", LINK, linkname="/usr/bin"), member("x", LINK, linkname="../../usr")]
    out = applied(
        tmp_path, tar_of(member("usr/bin", DIR), *links), tar_of(("bin/one", ""), ("x/bin/two", ""))
    )
    assert sorted(os.listdir(out / "usr/bin")) == ["one", "two"]


def test_a_directory_that_becomes_a_symlink_is_not_written_to_any_more(tmp_path: Path) -> None:
    """Fds of directories are remembered: not beyond the directory."""
    data = tar_of(
        member("a", DIR), ("a/one", ""), member("b", DIR), member("a", LINK, linkname="b"), ("a/two", "")
    )
    assert names(applied(tmp_path, data)) == ["a", "b", "b/two"]


def test_more_directories_than_fds(tmp_path: Path) -> None:
    data = tar_of(*((f"d{i}/f", str(i)) for i in range(3000)), member("h", HARD, linkname="d0/f"))
    out = applied(tmp_path, data)
    assert (out / "d2999/f").read_text() == "2999"
    assert (out / "h").read_text() == "0"


# Failure


@pytest.mark.parametrize("what", ["diff_id", "digest", "cut", "entry"])
def test_a_layer_that_is_wrong_leaves_nothing(tmp_path: Path, what: str) -> None:
    layer = tar_of(("a/b", "x" * 1000), *([("a/b/c", "")] if what == "entry" else []))
    top = make_image(tmp_path / "l", "n", layer, compression="")
    blobs = tmp_path / "l/blobs/sha256"
    (blob,) = (path for path in blobs.iterdir() if path.read_bytes() == layer)
    if what == "diff_id":  # a config that says something else, properly stored
        manifest = json.loads((blobs / top["digest"][7:]).read_text())
        config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
        config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
        with Store.open(f"{tmp_path}/l") as store, store.importing() as session:
            manifest["config"] = session.put_bytes(
                json.dumps(config).encode(), manifest["config"]["mediaType"]
            )
            session.set_name("n", session.put_bytes(json.dumps(manifest).encode(), top["mediaType"]))
    elif what == "digest":
        blob.write_bytes(layer.replace(b"xxx", b"xyx"))
    elif what == "cut":
        blob.write_bytes(layer[:-1])
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ImageError):
        unpack(tmp_path / "l", "n", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_directory_that_holds_something_is_not_unpacked_over(tmp_path: Path) -> None:
    make_image(tmp_path / "l", "n", BASE)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(ImageError, match="exists and is not an empty directory"):
        unpack(tmp_path / "l", "n", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["mine"]


@pytest.mark.parametrize("owner", [(0xFFFFFFFF, 0), (0, 0xFFFFFFFF), (1 << 32, 0), (1 << 40, 1)])
def test_an_owner_that_is_none_is_refused(tmp_path: Path, owner: tuple[int, int]) -> None:
    """-1 would leave root as the owner, 2**32 would wrap to it."""
    make_image(tmp_path / "l", "n", tar_of((member("f", uid=owner[0], gid=owner[1]), b"")))
    with pytest.raises(ImageError, match="is no user and group"):
        unpack(tmp_path / "l", "n", tmp_path / "out")


# One user


def test_a_single_user_owns_all_and_whose_it_should_be_is_recorded(tmp_path: Path) -> None:
    data = tar_of(
        member("d", DIR, mode=0o555, uid=1),
        (member("d/f", uid=1000, gid=2000, mode=0o4755), b"x"),
        ("root", ""),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("s", LINK, linkname="x", uid=3),
    )
    make_image(tmp_path / "l", "n", data)
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if str(parent) not in ("/", "/tmp"):
            parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            left = unpack(tmp_path / "l", "n", tmp_path / "out", single=True)
            os._exit(0 if left == {"devices, made as empty files": 1, "owners of symlinks": 1} else 3)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    tree = describe(tmp_path / "out")
    assert {entry["owner"] for entry in tree.values()} == {(54321, 54321)}
    assert tree["d/f"]["xattrs"] == {"user.rootlesscontainers": b"\x08\xe8\x07\x10\xd0\x0f"}
    assert tree["d"]["xattrs"] == {"user.rootlesscontainers": b"\x08\x01"}
    assert tree["root"]["xattrs"] == {}
    assert tree["d"]["mode"] == 0o555
    assert tree["d/f"]["mode"] == 0o4755
    assert (tree["null"]["type"], tree["null"]["content"][0]) == (stat.S_IFREG, 0)

"""The tar parser against tarfile, GNU tar and bsdtar, and what it refuses."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_image import acl, tarwrite
from oci_image.errors import ImageError, TooLarge
from oci_image.tarstream import CHAR, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, Limits, TarReader
from tests.lib.images import member, tar_of


class Pieces:
    """A source that gives size bytes at a time."""

    def __init__(self, data: bytes, size: int = 1 << 20) -> None:
        self._file = io.BytesIO(data)
        self._size = size

    def chunk(self) -> bytes:
        return self._file.read(self._size)


def read(data: bytes, size: int = 1 << 20, limits: Limits | None = None) -> list[tuple[Entry, bytes]]:
    reader = TarReader(Pieces(data, size), "layer", limits or Limits())
    found = []
    while entry := reader.next():
        content = b"".join(map(bytes, reader.data()))
        assert len(content) == entry.stored
        if entry.sparse is not None:
            whole = bytearray(entry.size)
            at = 0
            for offset, length in entry.sparse:
                whole[offset : offset + length] = content[at : at + length]
                at += length
            content = bytes(whole)
        found.append((entry, content))
    assert reader.position == len(data)
    return found


def one(data: bytes) -> Entry:
    ((entry, _),) = read(data)
    return entry


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [7, 512, 1000, 1 << 20])
def test_all_formats_of_tarfile_are_read_whatever_the_pieces(form: int, size: int) -> None:
    long = "d/" * 60 + "name"
    data = tar_of(
        member("d", tarfile.DIRTYPE),
        ("d/file", "content " * 200),
        (member(long, mode=0o4755, uid=7, gid=8), b"x"),
        member("link", tarfile.SYMTYPE, linkname="d/file"),
        member("hard", tarfile.LNKTYPE, linkname="d/file"),
        member("null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        form=form,
    )
    entries = read(data, size)
    assert [entry.name.decode().rstrip("/") for entry, _ in entries] == [
        "d",
        "d/file",
        long,
        "link",
        "hard",
        "null",
    ]
    assert [entry.kind for entry, _ in entries] == [DIRECTORY, FILE, FILE, SYMLINK, HARDLINK, CHAR]
    assert entries[1][1] == b"content " * 200
    assert (entries[2][0].mode, entries[2][0].uid, entries[2][0].gid) == (0o4755, 7, 8)
    assert entries[4][0].linkname == b"d/file"
    assert (entries[5][0].major, entries[5][0].minor) == (1, 3)


def test_pax_records_give_nanoseconds_large_ids_and_xattrs() -> None:
    records = {
        "mtime": "1700000000.123456789",
        "SCHILY.xattr.user.a": "b=c\nd",
        "LIBARCHIVE.xattr.user.%25x": "dmFsdWU",
        "uid": "4294967294",
    }
    entry = one(tar_of((member("f", pax_headers=records), b"")))
    assert entry.mtime == 1700000000123456789
    assert entry.xattrs == {"user.a": b"b=c\nd", "user.%x": b"value"}
    assert entry.uid == 4294967294


def test_times_before_1970_are_read() -> None:
    assert one(tar_of((member("f", pax_headers={"mtime": "-1.5"}), b""))).mtime == -1_500_000_000
    assert one(tar_of(member("f", mtime=-100), form=tarfile.GNU_FORMAT)).mtime == -100_000_000_000


def test_numbers_to_the_base_256_are_read() -> None:
    entry = one(tar_of(member("f", uid=1 << 31, mtime=1 << 40), form=tarfile.GNU_FORMAT))
    assert (entry.uid, entry.mtime) == (1 << 31, (1 << 40) * 10**9)


def test_a_global_header_holds_for_all_that_follow() -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", pax_headers={"uid": "77"}) as tar:
        tar.addfile(member("a"))
        tar.addfile(member("b"))
    assert [entry.uid for entry, _ in read(raw.getvalue())] == [77, 77]


@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar_keep_their_holes(tmp_path: Path, version: str) -> None:
    regions = [(i * 102_400, 4096) for i in range(40)]  # more than one extension block
    with (tmp_path / "sparse").open("wb") as file:
        for offset, length in regions:
            file.seek(offset)
            file.write(bytes([1 + offset % 250]) * length)
        file.truncate(10_000_000)
    form = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    command = ["tar", "-C", tmp_path, "-cS", *form, "sparse"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 1_000_000
    ((entry, content),) = read(data, 700)
    assert entry.name == b"sparse"
    assert content == (tmp_path / "sparse").read_bytes()
    assert entry.stored == 40 * 4096


def test_gnu_tar_and_bsdtar_are_read_alike(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "dir/file").write_text("text")
    (root / ("n" * 120)).symlink_to("t" * 130)
    os.link(root / "dir/file", root / "hard")
    os.mkfifo(root / "fifo")
    os.utime(root / "dir/file", ns=(5, 1_234_567_891_234_567_891))
    os.setxattr(root / "dir/file", "user.note", b"\x00\xff=\n")
    # Ids that have no name here: GNU tar writes names where it can, which are refused.
    subprocess.run(["setfacl", "-m", "u:98765:r--", "-m", "g:98766:-w-", root / "dir/file"], check=True)
    wanted = os.getxattr(root / "dir/file", "system.posix_acl_access")
    seen = []
    for command in (
        ["tar", "--format=pax", "--xattrs", "--acls", "--numeric-owner"],
        ["bsdtar", "--format=pax", "--xattrs", "--acls", "--numeric-owner"],
    ):
        words = [*command, "-C", str(root), "-cf", "-", "."]
        data = subprocess.run(words, capture_output=True, check=True).stdout
        entries = {entry.name.removeprefix(b"./").rstrip(b"/"): entry for entry, _ in read(data)}
        (file,) = (entry for entry in entries.values() if entry.kind == FILE)
        assert file.mtime == 1_234_567_891_234_567_891
        assert file.xattrs["user.note"] == b"\x00\xff=\n"
        assert file.xattrs["system.posix_acl_access"] == wanted
        seen.append(
            {
                name: entry.kind if entry.kind not in (FILE, HARDLINK) else b"f"
                for name, entry in entries.items()
            }
        )
    assert seen[0] == seen[1]


# What is refused


def broken(change: Any) -> bytes:
    data = bytearray(tar_of(("file", "content")))
    change(data)
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def put(at: int, value: bytes) -> Any:
    def change(data: bytearray) -> None:
        data[at : at + len(value)] = value

    return change


def pax(**records: str) -> bytes:
    renamed = {name.replace("_", "."): value for name, value in records.items()}
    return tar_of((member("f", pax_headers=renamed), b"abc"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"not a tar stream" * 100, "not a tar stream"),
        (tar_of(("f", "x"))[:100], "ends within a header"),
        (tar_of(("f", "x" * 600))[:700], "ends within a file"),
        (broken(put(156, b"D")), "type b'D' is not supported"),
        (broken(put(124, b"-0000000001\0")), "is not an octal number"),
        (broken(put(124, b"\xff" * 12)), "size -1 is negative"),
        (broken(put(124, b"\x80" + b"\xff" * 11)), "out of range"),
        (tar_of(("f", ""))[:512] + bytes(512) + tar_of(("f", "")), "a header follows a block of zeros"),
        (pax(mtime="soon"), "is not a time"),
        (pax(uid="-1"), "is not a number"),
        (pax(path="a\0b"), "NUL"),
        (pax(GNU_sparse_map="0,9"), "behind its end"),
        (pax(GNU_sparse_map="0,2", GNU_sparse_size="9"), "not as long as its data"),
        (pax(GNU_sparse_map="5,2,0,1", GNU_sparse_size="9"), "overlap"),
        (pax(GNU_sparse_map="5", GNU_sparse_size="9"), "has no length"),
        (pax(GNU_sparse_size="9"), "has no map"),
        (pax(GNU_sparse_major="1"), "cut off"),
        (pax(SCHILY_acl_access="user:lisa:rwx:x"), "names nobody"),
        (pax(SCHILY_acl_access="user:4294967295:rwx"), "names nobody"),
        (pax(SCHILY_acl_access=f"user:{'9' * 5000}:rwx"), "names nobody"),
        (pax(SCHILY_acl_access="mask:lisa:rwx"), "names nobody"),
    ],
)  # fmt: skip
def test_what_is_malformed_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(data)


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (tar_of(("n" * 5000, "")), Limits(special=4096)),
        (tar_of(("n" * 5000, ""), form=tarfile.GNU_FORMAT), Limits(special=4096)),
        (pax(SCHILY_xattr_user_a="x" * 5000), Limits(special=4096)),
        (tar_of(*((str(i), "") for i in range(20))), Limits(entries=10)),
        (tar_of(("f", "x" * 5000)), Limits(total=4096)),
        (tar_of(("f", "")) + bytes(1 << 20), Limits(trailing=4096)),
        (pax(GNU_sparse_map="0,0," * 40 + "0,3"), Limits(sparse=8)),
        (pax(GNU_sparse_realsize=str(1 << 50), GNU_sparse_map="0,3"), Limits()),
    ],
)  # fmt: skip
def test_bombs_are_refused_at_a_limit(data: bytes, limits: Limits) -> None:
    with pytest.raises(TooLarge):
        read(data, limits=limits)


@given(st.binary(max_size=600), st.integers(0, 511), st.binary(min_size=1, max_size=20))
def test_any_header_is_read_or_a_typed_error(rest: bytes, at: int, change: bytes) -> None:
    data = bytearray(tar_of((member("file", pax_headers={"SCHILY.xattr.user.a": "b"}), b"content")))
    data[at : at + len(change)] = change
    for start in (0, 1024):
        block = data[start : start + 512]
        data[start + 148 : start + 156] = b"%06o\0 " % (sum(block) - sum(block[148:156]) + 256)
    try:
        read(bytes(data) + rest)
    except ImageError as error:
        told = str(error)
        assert told.isprintable()  # noqa: PT017


NAMES = st.binary(min_size=1, max_size=300).filter(lambda name: b"\0" not in name)


@given(
    name=NAMES,
    link=NAMES,
    uid=st.integers(0, (1 << 32) - 2),
    mtime=st.integers(-(10**18), 10**19),
    xattrs=st.dictionaries(st.sampled_from(["user.a", "user.ü"]), st.binary(max_size=40)),
    content=st.binary(max_size=1000),
)  # fmt: skip
def test_what_this_program_writes_is_read_back(
    name: bytes, link: bytes, uid: int, mtime: int, xattrs: dict[str, bytes], content: bytes
) -> None:
    fields = {"uid": uid, "gid": uid, "mtime": mtime, "xattrs": xattrs}
    data = (
        tarwrite.header(name, len(content), mode=0o4711, **fields) + content + tarwrite.padding(len(content))
    )
    data += tarwrite.header(b"link", kind=SYMLINK, linkname=link, **fields) + tarwrite.END
    (file, read_content), (symlink, _) = read(data)
    assert (file.name, file.uid, file.gid, file.mtime, file.mode) == (name, uid, uid, mtime, 0o4711)
    assert (file.xattrs, read_content) == (xattrs, content)
    assert (symlink.kind, symlink.linkname) == (SYMLINK, link)


def test_tarfile_reads_what_this_program_writes() -> None:
    name = "ü" * 80
    data = tarwrite.header(name.encode(), 3, mtime=1_500_000_000, uid=1 << 31) + b"abc" + tarwrite.padding(3)
    with tarfile.open(fileobj=io.BytesIO(data + tarwrite.END)) as tar:
        (info,) = tar.getmembers()
        assert (info.name, info.size, info.uid, info.mtime) == (name, 3, 1 << 31, 1.5)


@pytest.mark.parametrize("text", ["user::rwz", "user", "friend::rwx", "mask:5:rwx"])
def test_what_is_no_acl_is_refused(text: str) -> None:
    with pytest.raises(ImageError, match="acl"):
        acl.from_text(text.encode(), "acl")

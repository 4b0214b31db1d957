"""Layers merged into one tar stream, by the rules of layer.md."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_image.errors import ImageError
from oci_image.flatten import flatten, flatten_image
from oci_image.layer import Layer
from oci_image.pack import Changes, squash
from oci_image.store import Store
from oci_image.transports import Location, open_source
from tests.lib.images import digest, make_image, member, tar_of, unpack

DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


class Info(tarfile.TarInfo):
    """A member and, of a file, its content."""

    content: bytes


def merged(path: Path, *layers: bytes) -> dict[str, Info]:
    make_image(path / "l", "n", *layers)
    source = open_source(Location("oci", f"{path}/l"))
    out = io.BytesIO()
    try:
        flatten_image(source, source.find("n"), out.write)
    finally:
        source.close()
    out.seek(0)
    with tarfile.open(fileobj=out, tarinfo=Info) as tar:
        members: list[Any] = tar.getmembers()
        assert len({info.name for info in members}) == len(members)
        for info in members:
            if info.isreg():
                file = tar.extractfile(info)
                assert file
                info.content = file.read()
        return {info.name: info for info in members}


def names(path: Path, *layers: bytes) -> list[str]:
    return sorted(name for name in merged(path, *layers) if name != ".")


BASE = tar_of(member("d", DIR), ("d/a", "a"), ("d/b", "b"), ("top", "t"))


def test_whiteouts_hide_what_lower_layers_have(tmp_path: Path) -> None:
    assert names(tmp_path, BASE, tar_of(("d/.wh.a", ""), (".wh.top", ""))) == ["d", "d/b"]
    assert names(tmp_path, BASE, tar_of((".wh.d", ""))) == ["top"]
    assert names(tmp_path, BASE, tar_of((".wh.nosuch", ""))) == ["d", "d/a", "d/b", "top"]


@pytest.mark.parametrize("first", [True, False])
def test_whiteouts_hide_nothing_of_their_own_layer(tmp_path: Path, first: bool) -> None:
    new = [("d/new", "n"), ("top", "new")]
    hide = [("d/.wh..wh..opq", ""), (".wh.top", "")]
    found = merged(tmp_path, BASE, tar_of(*(hide + new if first else new + hide)))
    assert sorted(found) == [".", "d", "d/new", "top"]
    assert found["top"].content == b"new"


def test_a_directory_merges_and_everything_else_replaces(tmp_path: Path) -> None:
    upper = tar_of(member("d", DIR, mode=0o700), ("d/c", "c"), member("top", DIR))
    found = merged(tmp_path, BASE, upper)
    assert sorted(found)[1:] == ["d", "d/a", "d/b", "d/c", "top"]
    assert found["d"].mode == 0o700
    assert found["top"].isdir()
    assert names(tmp_path, BASE, tar_of(("d", "now a file"))) == ["d", "top"]


def test_parents_that_are_symlinks_are_followed_within_the_root(tmp_path: Path) -> None:
    base = tar_of(
        member("usr/bin", DIR),
        member("bin", LINK, linkname="/usr/bin"),
        member("x", LINK, linkname="../../usr"),
    )
    assert "usr/bin/tool" in names(tmp_path, base, tar_of(("bin/tool", "")))
    assert "usr/bin/tool" in names(tmp_path, base, tar_of(("x/bin/tool", "")))


def test_hardlinks_stay_one_file_also_when_the_first_name_goes(tmp_path: Path) -> None:
    base = tar_of(
        ("one", "content"), member("two", HARD, linkname="one"), member("three", HARD, linkname="/one")
    )
    found = merged(tmp_path, base, tar_of((".wh.one", "")))
    kinds = sorted((name, info.isreg() and not info.islnk()) for name, info in found.items() if name != ".")
    assert [name for name, _ in kinds] == ["three", "two"]
    assert sorted(info.islnk() for name, info in found.items() if name != ".") == [False, True]


def test_metadata_is_kept(tmp_path: Path) -> None:
    info = member("f", mode=0o4755, uid=5, gid=6, pax_headers={"mtime": "1.5", "SCHILY.xattr.user.a": "b"})
    found = merged(tmp_path, tar_of((info, b"x"), member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)))
    assert (found["f"].mode, found["f"].uid, found["f"].gid, found["f"].mtime) == (0o4755, 5, 6, 1.5)
    assert found["f"].pax_headers["SCHILY.xattr.user.a"] == "b"
    assert (found["null"].devmajor, found["null"].devminor) == (1, 3)


@pytest.mark.parametrize(
    ("regions", "data"),
    [
        ([(3, 2), (3_000_000, 1)], b"abc"),  # behind it a hole
        ([(0, 1), (3_000_004, 1)], b"ab"),
        (
            [(100, 1), (200, 1), (600, 0), (1023, 2), (9000, 3)],
            b"abcdefg",
        ),  # within one block, and over its end
        ([(0, 0), (512, 512), (1024, 512), (3_000_005, 0)], b"x" * 1024),
        ([], b""),
    ],
)
@pytest.mark.parametrize("program", ["tar", "bsdtar", "umoci"])
def test_holes_stay_holes_for_every_program(
    tmp_path: Path, regions: list[tuple[int, int]], data: bytes, program: str
) -> None:
    words = ",".join(f"{offset},{length}" for offset, length in regions) or "3000005,0"
    name = "d\u00e9/" + "f" * 120
    info = member(name, pax_headers={"GNU.sparse.map": words, "GNU.sparse.size": "3000005"})
    make_image(tmp_path / "l", "n", tar_of((info, data)))
    wanted = bytearray(3_000_005)
    for offset, length in regions:
        wanted[offset : offset + length], data = data[:length], data[length:]
    out = tmp_path / "out"
    with Store.create(f"{tmp_path}/l") as store, store.importing() as session:
        source = open_source(Location("oci", f"{tmp_path}/l"))
        top = squash(source, source.find("n"), session, Changes())
        with (tmp_path / "flat.tar").open("wb") as file:
            flatten_image(source, source.find("n"), file.write)
        session.set_name("squashed", top)
        source.close()
    assert (tmp_path / "flat.tar").stat().st_size < 20_000
    if program == "umoci":
        options = ["--rootless"] if os.geteuid() else []
        command = ["umoci", "raw", "unpack", *options, "--image", f"{tmp_path}/l:squashed", str(out)]
    else:
        out.mkdir()
        command = [program, "-C", str(out), "-xf", f"{tmp_path}/flat.tar"]
    subprocess.run(command, check=True, capture_output=True)
    assert (out / name).read_bytes() == wanted
    unpack(tmp_path / "l", "squashed", tmp_path / "ours", single=True)
    assert (tmp_path / "ours" / name).read_bytes() == wanted
    assert (tmp_path / "ours" / name).stat().st_blocks * 512 < 100_000


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (tar_of(member("a", HARD, linkname="nosuch")), "is a hardlink to nosuch"),
        (tar_of(member("d", DIR), member("a", HARD, linkname="d")), "is a hardlink to d"),
        (tar_of(("f", ""), ("f/x", "")), "f: is not a directory"),
        (tar_of(member("a", LINK, linkname="a"), ("a/x", "")), "too many symlinks"),
        (tar_of(member("a", LINK, linkname="nosuch"), ("a/x", "")), "leads nowhere"),
        (tar_of(("../x", "")), "leads out of the root"),
        (tar_of(member("d", DIR), member("s", LINK, linkname="d"), ("s/.wh.x", "")), "through a symlink"),
        (tar_of((".wh.", "")), "a whiteout of nothing"),
        (tar_of((".wh..", "")), "a whiteout of nothing"),
        (tar_of((".wh..wh.x", "")), "a whiteout of nothing"),
        (tar_of((".wh.x/y", "")), "the name of a whiteout"),
        (tar_of(member(".wh.x", LINK, linkname="y")), "is a whiteout and no file"),
        (tar_of(("a/" * 600 + "x", "")), "directories deep"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(tmp_path: Path, layer: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        merged(tmp_path, layer)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 1500)), max_size=8), st.integers(0, 2000))
def test_a_sparse_file_keeps_its_content(parts: list[tuple[int, int]], end: int) -> None:
    """parts: (bytes of a hole, bytes of data behind it)."""
    content, data, regions = b"", b"", []
    for hole, length in parts:
        regions.append((len(content) + hole, length))
        data += (piece := os.urandom(length))
        content += bytes(hole) + piece
    content += bytes(end)
    words = ",".join(f"{offset},{length}" for offset, length in regions) or f"{len(content)},0"
    records = {"GNU.sparse.map": words, "GNU.sparse.size": str(len(content))}
    layer = tar_of((member("f", pax_headers=records), data))
    out = io.BytesIO()
    flatten([lambda: Layer(io.BytesIO(layer), digest(layer), "layer")], out.write, "image")
    out.seek(0)
    with tarfile.open(fileobj=out) as tar:
        file = tar.extractfile("f")
        assert file
        assert file.read() == content

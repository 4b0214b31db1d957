"""Hostile layers: each attack of the field, and that nothing outside the root was changed."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_image import descriptor, extract, inflate
from oci_image.errors import ImageError, TooLarge
from oci_image.extract import Extractor, Policy
from oci_image.layer import Layer
from oci_image.removal import remove_tree
from oci_image.store import Store
from oci_image.tarstream import LIMITS
from oci_image.transports import Location, open_source
from oci_image.unpack import apply_image, new_directory
from tests.lib.images import digest, make_image, member, tar_of, unpack
from tests.security.conftest import Swapping, describe, way_out

pytestmark = pytest.mark.root
DIR, LINK, HARD = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE

Attack = Callable[[Path], list[Any]]


def entry(name: str, content: str = "of the attacker") -> tuple[tarfile.TarInfo, bytes]:
    return member(name, mode=0o777, uid=666), content.encode()


def link(name: str, target: str) -> tarfile.TarInfo:
    return member(name, LINK, linkname=target)


def hard(name: str, target: str) -> tarfile.TarInfo:
    return member(name, HARD, linkname=target)


def attempt(tmp_path: Path, *layers: bytes) -> str:
    """Unpack; the error, or "" when the layers were taken. Nothing is left beside them."""
    make_image(tmp_path / "l", "n", *layers)
    before = set(os.listdir(tmp_path))
    try:
        unpack(tmp_path / "l", "n", tmp_path / "out")
    except ImageError as error:
        assert set(os.listdir(tmp_path)) == before
        return str(error)
    return ""


# What a layer may try with `sentinel`, a directory of the host whose files conftest compares.
REFUSED: dict[str, Attack] = {
    "traversal": lambda host: [entry("../" * 20 + f"{host}/file")],
    "traversal in the middle": lambda host: [entry("a/../../../b")],
    "traversal by a hardlink": lambda host: [hard("h", way_out(host / "file"))],
    "root entry is a symlink (CVE-2021-29136)": lambda host: [link(".", str(host)), entry("file")],
    "root entry is a symlink, with a slash": lambda host: [link("./", str(host)), entry("file")],
    "hardlink to what does not exist": lambda host: [hard("h", "nosuch")],
    "hardlink to a directory": lambda host: [member("d", DIR), hard("h", "d")],
    "hardlink to itself": lambda host: [entry("h"), hard("h", "h")],
    "hardlink to the root": lambda host: [hard("h", "/")],
    "relative hardlink (CVE-2026-50163)": lambda host: [hard("link", ".env")],
    "whiteout bare": lambda host: [entry(".wh.")],
    "whiteout of .": lambda host: [entry("d/.wh..")],
    "whiteout of ..": lambda host: [entry("d/.wh...")],
    "whiteout of a whiteout": lambda host: [entry(".wh..wh.x")],
    "whiteout that is a symlink": lambda host: [link(".wh.x", str(host))],
    "opaque that is a directory": lambda host: [member("d/.wh..wh..opq", DIR)],
    "whiteout through a symlink": lambda host: [link("s", str(host)), entry("s/.wh.file")],
    "whiteout through a link in the root": lambda host: [
        member("d", DIR), entry("d/x"), link("s", "d"), entry("s/.wh.x")],
    "opaque through a symlink": lambda host: [link("s", str(host)), entry("s/.wh..wh..opq")],
    "below a file": lambda host: [entry("f"), entry("f/x")],
    "below a whiteout": lambda host: [entry(".wh.d/x")],
    "link loop": lambda host: [link("a", "b"), link("b", "a"), entry("a/x")],
    "name too long": lambda host: [entry("n" * 300)],
    "too deep": lambda host: [entry("a/" * 600 + "f")],
    "magic link": lambda host: [link("proc", "/proc/self/root"), entry(f"proc{host}/file")],
}  # fmt: skip


@pytest.mark.parametrize("attack", REFUSED.values(), ids=REFUSED)
def test_a_layer_that_makes_no_sense_is_refused(
    tmp_path: Path, sentinel: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sentinel.parent / "cwd").mkdir()
    (sentinel.parent / "cwd/.env").write_text("secret")
    monkeypatch.chdir(sentinel.parent / "cwd")
    told = attempt(tmp_path, tar_of(*attack(sentinel)))
    assert told
    assert told.isprintable()
    # The same in a layer of its own, above what the first entries made.
    *first, last = attack(sentinel)
    if first:
        assert attempt(tmp_path, tar_of(*first), tar_of(last))


# What is taken, within the root: absolute and dangling links are what images are full of.
CONTAINED: dict[str, tuple[Attack, str]] = {
    "absolute name": (lambda host: [entry(f"{host}/file")], "{host}/file"),
    "absolute symlink, then below it": (
        lambda host: [member(str(host).lstrip("/"), DIR), link("s", str(host)), entry("s/file")],
        "{host}/file"),
    "symlink with ..": (
        lambda host: [member(str(host).lstrip("/"), DIR), link("s", way_out(host)), entry("s/file")],
        "{host}/file"),
    "link chain": (
        lambda host: [
            member(str(host).lstrip("/"), DIR),
            link("a", str(host.parent)),
            link("b", f"a/{host.name}"),
            link("c", "b"),
            entry("c/file")],
        "{host}/file"),
    "file over a symlink": (lambda host: [link("s", f"{host}/file"), entry("s")], "s"),
    "hardlink to a symlink, then a file over it (CVE-2021-32760)": (
        lambda host: [
            link("s", f"{host}/file"),
            member("h", HARD, linkname="s", mode=0o777),
            entry("h")],
        "h"),
    "directory over a symlink (CVE-2025-47290)": (
        lambda host: [link("s", str(host)), member("s", DIR, mode=0o777), entry("s/file")],
        "s/file"),
    "absolute hardlink name (CVE-2026-17106)": (lambda host: [entry("f"), hard("h", "/f")], "h"),
    "hardlink through a symlinked parent": (
        lambda host: [
            member("d", DIR), entry("d/f"), link("s", "/d"), hard("h", "s/f")],
        "h"),
    "node over a symlink": (
        lambda host: [link("s", f"{host}/file"), member("s", tarfile.FIFOTYPE), entry("t")],
        "t"),
}  # fmt: skip


@pytest.mark.parametrize(("attack", "where"), CONTAINED.values(), ids=CONTAINED)
@pytest.mark.parametrize("split", [False, True], ids=["one layer", "a layer each"])
def test_what_a_layer_may_do_stays_in_the_root(
    tmp_path: Path, sentinel: Path, attack: Attack, where: str, split: bool
) -> None:
    entries = attack(sentinel)
    assert attempt(tmp_path, *([tar_of(one) for one in entries] if split else [tar_of(*entries)])) == ""
    inside = Path(f"{tmp_path}/out/{where.format(host=sentinel).lstrip('/')}")
    assert inside.lstat().st_uid == 666
    assert inside.read_text() == "of the attacker"


def test_a_hardlink_to_a_symlink_changes_no_mode_outside(tmp_path: Path, sentinel: Path) -> None:
    """CVE-2021-32760"""
    (sentinel / "file").chmod(0o600)
    before = describe(sentinel), (sentinel / "file").stat().st_ctime_ns
    layer = tar_of(link("s", f"{sentinel}/file"), member("h", HARD, linkname="s", mode=0o4777, uid=666))
    assert attempt(tmp_path, layer) == ""
    assert (describe(sentinel), (sentinel / "file").stat().st_ctime_ns) == before
    (sentinel / "file").chmod(0o644)


def test_the_mode_of_a_device_node_survives(tmp_path: Path) -> None:
    """CVE-2026-17106, the valid cases"""
    assert (
        attempt(tmp_path, tar_of(member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666))) == ""
    )
    assert stat.S_IMODE((tmp_path / "out/null").stat().st_mode) == 0o666


def test_attributes_of_the_overlay_driver_are_left_out(tmp_path: Path) -> None:
    records = {"SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/x"}
    assert attempt(tmp_path, tar_of(member("d", DIR, pax_headers=records))) == ""
    assert os.listxattr(tmp_path / "out/d") == []


def test_a_target_that_is_a_symlink_is_not_followed(tmp_path: Path, sentinel: Path) -> None:
    make_image(tmp_path / "l", "n", tar_of(entry("file")))
    (tmp_path / "out").symlink_to(sentinel)
    with pytest.raises(ImageError, match="not an empty directory"):
        unpack(tmp_path / "l", "n", tmp_path / "out")


def exchange(tmp_path: Path, sentinel: Path) -> None:
    """Unpack, and put a link where the new directory is to be, just before it gets there."""
    source = open_source(Location("oci", f"{tmp_path}/l"))
    try:
        with new_directory(f"{tmp_path}/out") as (_, fd):
            apply_image(source, source.find("n"), fd)
            (tmp_path / "out").symlink_to(sentinel)
    finally:
        source.close()


def test_a_target_that_becomes_a_symlink_is_not_followed(tmp_path: Path, sentinel: Path) -> None:
    make_image(tmp_path / "l", "n", tar_of(entry("file")))
    with pytest.raises(NotADirectoryError):
        exchange(tmp_path, sentinel)
    assert sorted(os.listdir(tmp_path)) == ["l", "out", "sentinel"]


def test_a_race_for_a_parent_directory_leads_nowhere(
    tmp_path: Path, sentinel: Path, swapping: Swapping, rounds: int
) -> None:
    """CVE-2018-15664, CVE-2025-47290: a directory and a link to the host are exchanged all the time."""
    layer = tar_of(*(entry(f"d/f{i}") for i in range(40)))
    for number in range(max(5, rounds // 10)):
        root = tmp_path / f"root{number}"
        (root / "d").mkdir(parents=True)
        (root / "link").symlink_to(sentinel)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        extractor = Extractor(fd, Policy())
        stream = Layer(io.BytesIO(layer), digest(layer), "layer")
        try:
            with swapping(root / "d", root / "link"), stream:
                extractor.apply(stream, "layer")
                extractor.finish()
        except ImageError:
            pass  # the link was there at that moment, and led nowhere within the root
        finally:
            extractor.close()
            os.close(fd)


def test_layers_unpacked_in_parallel_do_not_meet(tmp_path: Path, sentinel: Path) -> None:
    """CVE-2025-47290: two unpackings of one image at once, each in a directory of its own."""
    out = link("s", str(sentinel))
    make_image(tmp_path / "l", "n", tar_of(out, member("s", DIR), entry("s/file")))
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            unpack(tmp_path / "l", "n", tmp_path / f"out{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all((tmp_path / f"out{number}/s/file").exists() for number in range(4))


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_no_program_is_executed_for_a_layer(tmp_path: Path, compression: str) -> None:
    """CVE-2026-41567: a decompressor taken from a hostile PATH."""
    make_image(tmp_path / "l", "n", tar_of(entry("file")), compression=compression)
    trap = tmp_path / "bin"
    trap.mkdir()
    for name in ("gzip", "igzip", "pigz", "unpigz", "zstd", "unzstd", "tar", "xz"):
        (trap / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/executed\n")
        (trap / name).chmod(0o755)
    code = "import sys; from oci_image.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "unpack", f"oci:{tmp_path}/l:n", f"{tmp_path}/out"]
    trace = ["strace", "-f", "-o", tmp_path / "trace", "-e", "trace=execve,execveat"]
    subprocess.run([*trace, *command], env={"PATH": f"{trap}:/usr/bin:/bin"}, check=True)
    assert not (tmp_path / "executed").exists()
    assert (tmp_path / "trace").read_text().count("execve(") == 1  # python itself


# Bombs


def blob_image(tmp_path: Path, blob: bytes, diff_id: str, kind: str) -> None:
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    with Store.create(f"{tmp_path}/l") as store, store.importing() as session:
        manifest = {
            "schemaVersion": 2,
            "config": session.put_bytes(descriptor.encode(config), descriptor.OCI_CONFIG),
            "layers": [session.put_bytes(blob, f"{descriptor.OCI_LAYER}+{kind}")],
        }
        session.set_name("n", session.put_bytes(descriptor.encode(manifest), descriptor.OCI_MANIFEST))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_refused_at_a_limit_and_the_disk_left_clean(tmp_path: Path, kind: str) -> None:
    """A file of 100 GiB of zeros, in 10 MiB of zstd or 100 MiB of gzip (its format allows no more)."""
    info = member("bomb")
    info.size = 100 << 30
    compress = zstandard.compress if kind == "zstd" else lambda data: zlib.compress(data, 9, 31)
    blob = compress(info.tobuf(tarfile.GNU_FORMAT)) + compress(bytes(1 << 24)) * 6400
    assert len(blob) < (11 << 20 if kind == "zstd" else 110 << 20)
    blob_image(tmp_path, blob, "sha256:" + "0" * 64, kind)
    with pytest.raises(TooLarge, match="times as many"):
        unpack(tmp_path / "l", "n", tmp_path / "out")
    assert os.listdir(tmp_path) == ["l"]


def sparse(name: str, size: int) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, pax_headers={"GNU.sparse.map": "0,1", "GNU.sparse.size": str(size)}), b"x"


XATTRS = {f"SCHILY.xattr.user.{i}": "x" * 60000 for i in range(30)}
LIMITED: dict[str, bytes] = {
    "a PAX header": tar_of(member("f", pax_headers={"comment": "x" * (2 << 20)})),
    "xattrs": tar_of(member("f", pax_headers=XATTRS)),
    "a GNU long name": tar_of(entry("n" * (2 << 20)), form=tarfile.GNU_FORMAT),
    "a sparse file": tar_of(sparse("f", 1 << 60)),
    "sparse files together": tar_of(*(sparse(f"f{i}", 1 << 39) for i in range(3))),
    "trailing bytes": tar_of(entry("f")) + bytes(65 << 20),
}  # fmt: skip


@pytest.mark.parametrize("layer", LIMITED.values(), ids=LIMITED)
def test_what_grows_beyond_reason_is_refused(tmp_path: Path, layer: bytes) -> None:
    make_image(tmp_path / "l", "n", layer)
    with pytest.raises(TooLarge):
        unpack(tmp_path / "l", "n", tmp_path / "out")
    assert os.listdir(tmp_path) == ["l"]


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    layer = tar_of(*(entry(f"f{i}") for i in range(50)))
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    extractor = Extractor(fd)
    try:
        few = LIMITS._replace(entries=20)
        with pytest.raises(TooLarge), Layer(io.BytesIO(layer), digest(layer), "l", few) as stream:
            extractor.apply(stream, "l")
    finally:
        extractor.close()
        os.close(fd)


def test_a_tree_of_any_depth_is_removed_again(tmp_path: Path) -> None:
    """Links make it deeper than PATH_MAX; the layer fails at its end, and nothing may be left."""
    entries: list[Any] = [member("s0", DIR)]
    for i in range(1, 12):
        below = "/".join(["d"] * 400)
        entries += [member(f"s{i - 1}/{below}", DIR), link(f"s{i}", f"s{i - 1}/{below}")]
    told = attempt(tmp_path, tar_of(*entries, entry("../x")))
    assert "leads out of the root" in told
    assert os.listdir(tmp_path) == ["l"]


def test_nothing_here_uses_tarfile_or_joins_paths() -> None:
    """CVE-2025-4138, 4330, 4435, 4517: filters of tarfile could be bypassed."""
    package = Path(inflate.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert "import tarfile" not in text
        assert "extractall" not in text
    assert "os.path" not in Path(extract.__file__).read_text()


NUMBERS = st.sampled_from([0, 1, 255, 1 << 20, 1 << 31, (1 << 32) - 1, 1 << 32]) | st.integers(0, 1 << 63)
NAMES = st.sampled_from(
    ["a", "b", "a/b", "a/../b", "./a", "/a", "..", ".", "a/.wh.b", ".wh.a", "a/.wh..wh..opq", "�"]
)
KEYS = """mtime size uid path linkpath SCHILY.xattr.user.x SCHILY.xattr. SCHILY.xattr.user.\0
SCHILY.xattr.security.capability SCHILY.xattr.system.posix_acl_access SCHILY.acl.access
LIBARCHIVE.xattr.user.y GNU.sparse.map GNU.sparse.size"""
VALUES = "0 1 -1 99999999999999999999 9223372036854775808.9 -9999999999999999999 x a/b user::rwx 0,1 .. \0"
RECORDS = st.dictionaries(
    st.sampled_from(KEYS.split()), st.sampled_from([*VALUES.split(" "), ""]), max_size=2
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(NAMES, st.sampled_from("012345670L"), NAMES, NUMBERS, NUMBERS, NUMBERS, RECORDS), max_size=5
    )
)
def test_any_header_is_applied_within_the_root_or_a_typed_error(headers: list[Any]) -> None:
    """Names, links, whiteouts, numbers and records in any combination: never a traceback, nothing left."""
    entries = []
    for name, kind, target, one, two, three, records in headers:
        info = member(name, kind.encode(), linkname=target, uid=one, mtime=two, pax_headers=records)
        info.devmajor = info.devminor = three % (1 << 21)
        entries.append(info)
    layer = tar_of(*entries)
    directory = tempfile.mkdtemp(prefix="ocirt-test-")
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    extractor = Extractor(fd)
    try:
        with Layer(io.BytesIO(layer), digest(layer), "layer") as stream:
            extractor.apply(stream, "layer")
        extractor.finish()
    except ImageError as error:
        told = str(error)
        assert told.isprintable()  # noqa: PT017
    finally:
        extractor.close()
        os.close(fd)
        parent = os.open("/tmp", os.O_RDONLY | os.O_DIRECTORY)
        remove_tree(parent, os.path.basename(directory))
        os.close(parent)

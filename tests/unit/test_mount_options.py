"""mounts[].options: sorted into attributes, propagation and data."""

from __future__ import annotations

import pytest

from ocirt import kernel
from ocirt.errors import SpecError, Unsupported
from ocirt.mount_options import parse

RO, NOSUID, NODEV = 1, 2, 4  # MOUNT_ATTR_ of linux/mount.h
ATIME, NOATIME, STRICTATIME = 0x70, 0x10, 0x20


@pytest.mark.parametrize(
    ("words", "attr_set", "attr_clear"),
    [
        (["ro", "nosuid", "nodev"], RO | NOSUID | NODEV, 0),
        (["rw"], 0, RO),
        (["ro", "rw"], 0, RO),  # the later word wins
        (["rw", "ro"], RO, 0),
        (["noatime"], NOATIME, ATIME),
        (["noatime", "strictatime"], STRICTATIME, ATIME),
        (["relatime"], 0, ATIME),
    ],
)
def test_flags_become_attributes(words: list[str], attr_set: int, attr_clear: int) -> None:
    options = parse(words, "mounts[0]")
    assert (options.attr_set, options.attr_clear) == (attr_set, attr_clear)


def test_recursive_flags_are_kept_apart() -> None:
    options = parse(["rbind", "ro", "rnosuid"], "mounts[0]")
    assert (options.attr_set, options.rec_set) == (RO, NOSUID)
    assert options.bind
    assert options.recursive


@pytest.mark.parametrize(
    ("word", "value", "recursive"),
    [("private", 1 << 18, False), ("rslave", 1 << 19, True), ("rshared", 1 << 20, True)],
)
def test_propagation(word: str, value: int, recursive: bool) -> None:
    options = parse([word], "mounts[0]")
    assert (options.propagation, options.propagation_recursive) == (value, recursive)


def test_the_rest_is_data_for_the_file_system_in_order() -> None:
    options = parse(["nosuid", "mode=755", "defaults", "size=64k", ""], "mounts[0]")
    assert options.data == ["mode=755", "size=64k"]


@pytest.mark.parametrize(
    "word", ["noauto", "nofail", "_netdev", "nouser", "x-systemd.automount", "comment=x"]
)
def test_what_mount_8_keeps_to_itself_is_not_passed_on(word: str) -> None:
    """config.md, Linux mount options: "If a custom option string is already recognized by mount(8),
    the runtime SHOULD follow the behavior of mount(8)"."""
    assert parse(["ro", word], "mounts[0]").data == []


def test_a_nul_is_refused_with_the_field() -> None:
    with pytest.raises(SpecError, match=r"mounts\[3\]\.options: 'a\\x00b' contains a NUL"):
        parse(["a\0b"], "mounts[3]")


def test_what_is_not_built_is_named() -> None:
    with pytest.raises(Unsupported, match=r"mounts\[2\]\.options: not supported: idmap"):
        parse(["idmap"], "mounts[2]")


def test_constants_are_those_of_the_headers() -> None:
    assert (kernel.MOUNT_ATTR_RDONLY, kernel.MOUNT_ATTR_NOSUID, kernel.MOUNT_ATTR_NODEV) == (
        RO,
        NOSUID,
        NODEV,
    )

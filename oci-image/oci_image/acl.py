"""POSIX ACLs: from the text that tar streams carry to the bytes of the kernel's xattr (acl(5))."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from oci_image.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_VERSION = (2).to_bytes(4, "little")
_ENTRY = Struct("<HHI")
_NO_ID = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = {"user": (USER_OBJ, USER), "group": (GROUP_OBJ, GROUP), "mask": (MASK, 0), "other": (OTHER, 0)}
_SHORT = {"u": "user", "g": "group", "m": "mask", "o": "other"}


def from_text(text: bytes, where: str) -> bytes | None:
    """Value of system.posix_acl_access (or _default) for user::rwx,group::r-x,other::---,...

    A fourth field is the number of a named user or group (star, libarchive). None where a name comes
    without one (GNU tar): only the passwd of the image says who that is. Raises ImageError(where, ...).
    """
    found: list[tuple[int, int, int]] = []
    for tag, permissions, name, number in _entries(text, where):
        if name and number is None:
            return None
        found.append((tag, permissions, _NO_ID if number is None else number))
    return _packed(found)


def from_names(text: bytes, where: str, numbers: Callable[[bool, str], int]) -> bytes:
    """The same where names come without numbers: numbers(is a user, name) knows them."""
    found: list[tuple[int, int, int]] = []
    for tag, permissions, name, number in _entries(text, where):
        if name and number is None:
            number = numbers(tag == USER, name)
        found.append((tag, permissions, _NO_ID if number is None else number))
    return _packed(found)


def _entries(text: bytes, where: str) -> Iterator[tuple[int, int, str, int | None]]:
    """(tag, permissions, name or "", number or None)"""
    for word in text.decode("utf-8", "surrogateescape").replace("\n", ",").split(","):
        word = word.partition("#")[0].strip()
        if not word:
            continue
        fields = word.removeprefix("default:").split(":")
        kind = _SHORT.get(fields[0], fields[0])
        if kind in ("mask", "other") and len(fields) == 2:
            fields.insert(1, "")  # Solaris writes mask:rwx
        if kind not in _TAGS or len(fields) not in (3, 4):
            raise ImageError(where, f"{word!r} is not an ACL entry")
        plain, named = _TAGS[kind]
        permissions = 0
        for letter in fields[2]:
            if letter not in "rwx-":
                raise ImageError(where, f"{word!r} is not an ACL entry")
            permissions |= {"r": 4, "w": 2, "x": 1, "-": 0}[letter]
        if not fields[1]:
            yield plain, permissions, "", None
            continue
        number = fields[3] if len(fields) == 4 else fields[1]
        numeric = number.isascii() and number.isdigit()
        too_large = numeric and (len(number) > 10 or int(number) >= _NO_ID)
        if not named or too_large or (len(fields) == 4 and not numeric):
            raise ImageError(where, f"{word!r} names nobody")
        yield named, permissions, fields[1], int(number) if numeric else None


def _packed(entries: list[tuple[int, int, int]]) -> bytes:
    found = sorted((tag, who, permissions) for tag, permissions, who in entries)
    return _VERSION + b"".join(_ENTRY.pack(tag, permissions, who) for tag, who, permissions in found)

"""POSIX ACLs: from the text that tar streams carry to the bytes of the kernel's xattr (acl(5))."""

from __future__ import annotations

import re
from struct import Struct

from oci_image.errors import ImageError

_VERSION = (2).to_bytes(4, "little")
_ENTRY = Struct("<HHI")
_NO_ID = 0xFFFFFFFF
_NUMBER = re.compile(r"[0-9]{1,10}")
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = {"user": (USER_OBJ, USER), "group": (GROUP_OBJ, GROUP), "mask": (MASK, 0), "other": (OTHER, 0)}
_SHORT = {"u": "user", "g": "group", "m": "mask", "o": "other"}


def from_text(text: bytes, where: str) -> bytes:
    """Value of system.posix_acl_access (or _default) for user::rwx,group::r-x,other::---,...

    A fourth field is the number of a named user or group (star); without it the name must be one:
    names of the machine that made the archive mean nothing here. Raises ImageError(where, ...).
    """
    entries = []
    for word in text.decode("utf-8", "replace").replace("\n", ",").split(","):
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
            entries.append((plain, _NO_ID, permissions))
            continue
        number = fields[3] if len(fields) == 4 else fields[1]
        if not named or not _NUMBER.fullmatch(number) or int(number) >= _NO_ID:
            raise ImageError(where, f"{word!r} names nobody by number")
        entries.append((named, int(number), permissions))
    entries.sort()
    return _VERSION + b"".join(_ENTRY.pack(tag, permissions, who) for tag, who, permissions in entries)

"""User and group of an image config, by number or by the image's own passwd and group files.

conversion.md, Config.User. The files are hostile: read through an fd below the root, only if they
are regular and small (CVE-2026-47262, CVE-2024-9676). A number is never looked up as a name, so
that one which is too large cannot become another user (CVE-2024-40635, CVE-2026-46680).
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from oci_image.errors import ImageError, TooLarge
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_FILE = 1 << 20  # bytes of passwd or group
MAX_ID = 0xFFFFFFFE  # 2**32 - 1 means "leave it" to the kernel
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class User(NamedTuple):
    """process.user of config.json."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()


def resolve(text: str, root_fd: int, where: str = "config.User") -> User:
    """The user that USER[:GROUP] means in the root file system root_fd; "" is root.

    A user's own group and, where it is named, its further groups come from the files unless a group
    is given. Raises ImageError naming where.
    """
    if not text:
        return User()
    name, colon, group = text.partition(":")
    if not name or (colon and not group) or ":" in group:
        raise ImageError(where, f"{text!r} is not USER or USER:GROUP")
    uid = _number(name, where)
    gid = 0
    more: tuple[int, ...] = ()
    if uid is None or not group:
        found = _find_user(root_fd, name, uid, where)
        if found:
            uid, gid = found
        elif uid is None:
            raise ImageError(where, f"the image's /etc/passwd has no user {name!r}")
    if group:
        number = _number(group, where)
        gid = _find_group(root_fd, group, where) if number is None else number
    elif _number(name, where) is None:
        more = tuple(sorted(_groups_of(root_fd, name, where) - {gid}))
    assert uid is not None
    return User(uid, gid, more)


def number_of(is_user: bool, name: str, root_fd: int, where: str) -> int:
    """The id of a user or group in the root file system root_fd. Raises ImageError naming where."""
    if not is_user:
        return _find_group(root_fd, name, where)
    found = _find_user(root_fd, name, None, where)
    if found is None:
        raise ImageError(where, f"the image's /etc/passwd has no user {name!r}")
    return found[0]


def _number(text: str, where: str) -> int | None:
    """The id that text is the number of; None: text is a name."""
    if not (text.isascii() and text.isdigit()):
        return None
    if len(text) > 10 or int(text) > MAX_ID:
        raise ImageError(where, f"{text} is no id: the largest is {MAX_ID}")
    return int(text)


def _find_user(root_fd: int, name: str, uid: int | None, where: str) -> tuple[int, int] | None:
    """(uid, gid) of the first line for a name, or for a uid where one is given."""
    for fields in _lines(root_fd, "etc/passwd", where):
        if len(fields) < 4:
            continue
        ids = _plain(fields[2]), _plain(fields[3])
        if ids[0] is None or ids[1] is None:
            continue
        if ids[0] == uid if uid is not None else fields[0] == name:
            return ids[0], ids[1]
    return None


def _find_group(root_fd: int, name: str, where: str) -> int:
    for fields in _lines(root_fd, "etc/group", where):
        if len(fields) >= 3 and fields[0] == name and (gid := _plain(fields[2])) is not None:
            return gid
    raise ImageError(where, f"the image's /etc/group has no group {name!r}")


def _groups_of(root_fd: int, name: str, where: str) -> set[int]:
    """Groups that list a user as their member."""
    found = set()
    for fields in _lines(root_fd, "etc/group", where):
        gid = _plain(fields[2]) if len(fields) >= 4 else None
        if gid is not None and name in fields[3].split(","):
            found.add(gid)
    return found


def _plain(text: str) -> int | None:
    """A number of the files; None where it is none."""
    if text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_ID:
        return int(text)
    return None


def _lines(root_fd: int, path: str, where: str) -> Iterator[list[str]]:
    """The fields of each line of a file below the root; nothing where it does not exist."""
    shown = f"{where}: the image's /{path}"
    resolve_flags = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
    try:
        fd = kernel.openat2(root_fd, path, _READ, 0, resolve_flags)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise ImageError(shown, os.strerror(error.errno or 0)) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(shown, "is not a regular file")
        if status.st_size > MAX_FILE:
            raise TooLarge(shown, f"has {status.st_size} bytes, more than {MAX_FILE}")
        data = kernel.read_all(fd, MAX_FILE)
    finally:
        os.close(fd)
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        line = line.strip()
        if line and not line.startswith("#"):
            yield line.split(":")

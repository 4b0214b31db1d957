"""Owners of a tree, and what else names ids: shifted to those of a user namespace, or back."""

from __future__ import annotations

import os
import stat
from struct import Struct
from typing import TYPE_CHECKING

from oci_image.errors import ImageError
from oci_image.userns import mapped

if TYPE_CHECKING:
    from oci_image.userns import Maps

CAPABILITY = "security.capability"
ACLS = ("system.posix_acl_access", "system.posix_acl_default")
# struct vfs_ns_cap_data (linux/capability.h), little-endian: magic and flags, two pairs of sets, root's id
_REVISION_2, _REVISION_3, _REVISION = 0x02000000, 0x03000000, 0xFF000000
_CAPS, _NS_CAPS = Struct("<I16s"), Struct("<I16sI")
_ENTRY = Struct("<HHI")  # posix_acl_xattr_entry: tag, permissions, id
_USER, _GROUP = 0x02, 0x08
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def shift_tree(root_fd: int, maps: Maps) -> None:
    """Give the directory root_fd and all below to the ids of the host that maps name. Raises ImageError."""
    seen: set[tuple[int, int]] = set()
    shift_one(root_fd, maps)
    # (fd, path, names left): a stack, because trees may be deep.
    stack = [(os.dup(root_fd), b"", os.listdir(root_fd))]
    try:
        while stack:
            fd, path, names = stack[-1]
            if not names:
                stack.pop()
                os.close(fd)
                continue
            name = os.fsencode(names.pop())
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            _shift(fd, name, path + b"/" + name, maps)
            if stat.S_ISDIR(status.st_mode):
                below = os.open(name, _DIRECTORY, dir_fd=fd)
                stack.append((below, path + b"/" + name, os.listdir(below)))
    finally:
        for fd, _, _ in stack:
            os.close(fd)


def shift_one(fd: int, maps: Maps) -> None:
    """The same for the directory itself, and for nothing in it."""
    _shift(fd, b".", b"/", maps)


def _shift(parent_fd: int, name: bytes, path: bytes, maps: Maps) -> None:
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    link = b"/proc/self/fd/%d/%s" % (parent_fd, name)
    xattrs = {
        key: os.getxattr(link, key, follow_symlinks=False)
        for key in os.listxattr(link, follow_symlinks=False)
        if key == CAPABILITY or key in ACLS
    }
    ids = maps.host_ids(status.st_uid, status.st_gid)
    if ids is None:
        owner = f"{status.st_uid}:{status.st_gid}"
        raise ImageError(os.fsdecode(path), f"its owner {owner} is not mapped")
    os.chown(name, *ids, dir_fd=parent_fd, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):  # chown took setuid and the capabilities away
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
        try:
            os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(status.st_mode))
        finally:
            os.close(fd)
    for key, value in shifted(xattrs, maps, os.fsdecode(path)).items():
        os.setxattr(link, key, value, follow_symlinks=False)


def shifted(xattrs: dict[str, bytes], maps: Maps, where: str) -> dict[str, bytes]:
    """xattrs with the ids of the host in capabilities and ACLs. Raises ImageError for ids without a map."""
    found = dict(xattrs)
    if CAPABILITY in found:
        found[CAPABILITY] = _of_namespace(found[CAPABILITY], maps.root()[0])
    for key in ACLS:
        if key in found:
            found[key] = _shifted_acl(found[key], maps, where)
    return found


def unshifted(xattrs: dict[str, bytes], maps: Maps, where: str) -> dict[str, bytes]:
    """The reverse of shifted."""
    found = dict(xattrs)
    if CAPABILITY in found:
        found[CAPABILITY] = _of_everywhere(found[CAPABILITY], maps.root()[0])
    for key in ACLS:
        if key in found:
            found[key] = _shifted_acl(found[key], maps.inverse(), where)
    return found


def _of_namespace(value: bytes, root: int) -> bytes:
    """Capabilities that hold in the user namespace whose root has this id (capabilities(7), version 3)."""
    if len(value) != _CAPS.size:
        return value
    magic, sets = _CAPS.unpack(value)
    if magic & _REVISION != _REVISION_2:
        return value
    return _NS_CAPS.pack(magic & ~_REVISION | _REVISION_3, sets, root)


def _of_everywhere(value: bytes, root: int) -> bytes:
    if len(value) != _NS_CAPS.size:
        return value
    magic, sets, owner = _NS_CAPS.unpack(value)
    if magic & _REVISION != _REVISION_3 or owner != root:
        return value
    return _CAPS.pack(magic & ~_REVISION | _REVISION_2, sets)


def _shifted_acl(value: bytes, maps: Maps, where: str) -> bytes:
    if (len(value) - 4) % _ENTRY.size:
        return value
    out = value[:4]
    for tag, permissions, who in _ENTRY.iter_unpack(value[4:]):
        if tag in (_USER, _GROUP):
            found = mapped(who, maps.uids if tag == _USER else maps.gids)
            if found is None:
                raise ImageError(where, f"its ACL names {who}, which is not mapped")
            who = found
        out += _ENTRY.pack(tag, permissions, who)
    return out

"""A directory tree, entry by entry, to be compared with another one."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Tree = dict[str, dict[str, Any]]


def describe(root: Path, without: Iterable[str] = ()) -> Tree:
    """Type, mode, owner, device, mtime, links, xattrs and content by path.

    "same as" is the first name of a file, so that hardlinks show.
    """
    first: dict[int, str] = {}
    found: Tree = {}
    for parent, directories, files in sorted(os.walk(root)):
        for name in sorted([*directories, *files, *(["."] if parent == str(root) else [])]):
            path = Path(parent, name)
            status = path.lstat()
            shown = str(path.relative_to(root))
            entry: dict[str, Any] = {
                "type": stat.S_IFMT(status.st_mode),
                "mode": stat.S_IMODE(status.st_mode),
                "owner": (status.st_uid, status.st_gid),
                "mtime": status.st_mtime_ns,
                "rdev": status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0,
                "xattrs": {
                    key: os.getxattr(path, key, follow_symlinks=False) for key in sorted(xattrs(path))
                },
            }
            if stat.S_ISLNK(status.st_mode):
                entry["link"] = os.readlink(path)
            elif not stat.S_ISDIR(status.st_mode):
                entry["same as"] = first.setdefault(status.st_ino, shown)
            if stat.S_ISREG(status.st_mode):
                entry["content"] = (status.st_size, hashlib.sha256(path.read_bytes()).hexdigest())
            for key in without:
                entry.pop(key, None)
            found[shown] = entry
    return found


def xattrs(path: Path) -> dict[str, bytes]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names if "selinux" not in name}


def differences(one: Tree, other: Tree) -> list[str]:
    """What differs, a line for each entry, for the message of an assertion."""
    lines = [f"only in the first: {path}" for path in sorted(one.keys() - other.keys())]
    lines += [f"only in the second: {path}" for path in sorted(other.keys() - one.keys())]
    for path in sorted(one.keys() & other.keys()):
        lines += [
            f"{path}: {key}: {one[path].get(key)!r}, {other[path].get(key)!r}"
            for key in one[path]
            if one[path].get(key) != other[path].get(key)
        ]
    return lines

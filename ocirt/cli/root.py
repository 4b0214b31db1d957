"""Where the state of all containers is kept when --root does not say it."""

from __future__ import annotations

import posix
from _stat import S_ISDIR

from ocirt import kernel
from ocirt.errors import OcirtError

DEFAULT = "/run/ocirt"
RUNTIME_DIR = "XDG_RUNTIME_DIR"


def state_root(given: str | None) -> str:
    """Absolute path of the state root: --root, /run/ocirt, or the user's own directory.

    An empty XDG_RUNTIME_DIR counts as unset. Raises OcirtError when the directory in /tmp is not
    the user's.
    """
    if given:
        return given.rstrip("/") or "/" if given[0] == "/" else f"{posix.getcwd()}/{given}"
    runtime_dir = kernel.getenv(RUNTIME_DIR)
    uid = posix.geteuid()
    if uid == 0:
        return f"{runtime_dir}/ocirt" if runtime_dir and _is_root_of_user_namespace() else DEFAULT
    return f"{runtime_dir}/ocirt" if runtime_dir else _in_tmp(uid)


def _is_root_of_user_namespace() -> bool:
    """A rootless engine's call? USER=root is what a full system in a user namespace has."""
    from ocirt.host import WHOLE_ID_MAP
    from ocirt.procfs import id_map

    return kernel.getenv("USER") != "root" and id_map("self") != WHOLE_ID_MAP


def _in_tmp(uid: int) -> str:
    path = f"/tmp/ocirt-{uid}"
    try:
        status = posix.lstat(path)
    except FileNotFoundError:
        return path
    if status.st_uid != uid or not S_ISDIR(status.st_mode) or status.st_mode & 0o022:
        raise OcirtError(f"{path} exists and is not this user's own directory; give --root or {RUNTIME_DIR}")
    return path

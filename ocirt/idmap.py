"""linux.uidMappings and gidMappings: written by the parent while the init waits."""

from __future__ import annotations

import posix
from errno import EPERM

from ocirt.errors import StepError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_maps(pid: int, linux: dict[str, Any], euid: int) -> None:
    """Give the user namespace of pid its id maps (user_namespaces(7)).

    A privileged runtime writes them itself. An unprivileged one may map only its own id, and
    only with setgroups denied; for more, newuidmap and newgidmap of the shadow suite do it.
    """
    uid_map = _lines(linux.get("uidMappings") or ())
    gid_map = _lines(linux.get("gidMappings") or ())
    if euid == 0:
        _write(pid, "uid_map", uid_map, "linux.uidMappings")
        _write(pid, "gid_map", gid_map, "linux.gidMappings")
        return
    if _only_own(linux["uidMappings"], euid) and _only_own(linux["gidMappings"], posix.getegid()):
        _write(pid, "setgroups", "deny", "linux.gidMappings")
        _write(pid, "uid_map", uid_map, "linux.uidMappings")
        _write(pid, "gid_map", gid_map, "linux.gidMappings")
        return
    _helper("newuidmap", pid, uid_map, "linux.uidMappings")
    _helper("newgidmap", pid, gid_map, "linux.gidMappings")


def _lines(mappings: Any) -> str:
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)


def _only_own(mappings: list[dict[str, int]], own: int) -> bool:
    return len(mappings) == 1 and mappings[0]["hostID"] == own and mappings[0]["size"] == 1


def _write(pid: int, name: str, text: str, field: str) -> None:
    path = f"/proc/{pid}/{name}"
    try:
        fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, text.encode())
        finally:
            posix.close(fd)
    except OSError as error:
        raise StepError(error.errno or 0, "write", field, path) from None


def _helper(name: str, pid: int, text: str, field: str) -> None:
    """Run the setuid helper that checks /etc/subuid and /etc/subgid for us."""
    for directory in ("/usr/bin", "/usr/local/bin", "/bin"):
        program = f"{directory}/{name}"
        try:
            posix.stat(program)
        except OSError:
            continue
        break
    else:
        raise Unsupported(field, f"more than one's own id without privilege: {name} is not installed")
    from ocirt.spawn import run

    result = run([program, str(pid), *text.split()], {})
    if result.status != 0:
        raise StepError(EPERM, name, field, result.stderr.strip() or result.describe())

"""linux.uidMappings and gidMappings: written by the parent while the init waits."""

from __future__ import annotations

import posix
from errno import EPERM

from ocirt import kernel
from ocirt.context import open_proc
from ocirt.errors import StepError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_maps(pid: int, pidfd: int, linux: dict[str, Any], euid: int) -> None:
    """Give the user namespace of pid its id maps (user_namespaces(7)).

    pidfd is the same process's. A privileged runtime writes the maps itself. An unprivileged one
    may map only its own id, and only with setgroups denied; for more, newuidmap and newgidmap of
    the shadow suite do it.
    """
    uid_map = _lines(linux.get("uidMappings") or ())
    gid_map = _lines(linux.get("gidMappings") or ())
    directory = _open_process(pid, pidfd)
    try:
        if euid == 0:
            _write(directory, "uid_map", uid_map, "linux.uidMappings")
            _write(directory, "gid_map", gid_map, "linux.gidMappings")
            return
        if _only_own(linux["uidMappings"], euid) and _only_own(linux["gidMappings"], posix.getegid()):
            _write(directory, "setgroups", "deny", "linux.gidMappings")
            _write(directory, "uid_map", uid_map, "linux.uidMappings")
            _write(directory, "gid_map", gid_map, "linux.gidMappings")
            return
    finally:
        posix.close(directory)
    _helper("newuidmap", pid, uid_map, "linux.uidMappings")
    _helper("newgidmap", pid, gid_map, "linux.gidMappings")


def _open_process(pid: int, pidfd: int) -> int:
    """The process's directory in a procfs that is one (CVE-2025-52881), and not that of a later
    owner of its pid: a host program that waits for any child may have reaped it.
    """
    proc_fd = open_proc()
    try:
        directory = posix.open(str(pid), posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=proc_fd)
    except OSError as error:
        raise StepError(error.errno or 0, "open", "linux.uidMappings", f"/proc/{pid}") from None
    finally:
        posix.close(proc_fd)
    try:
        kernel.pidfd_send_signal(pidfd, 0)
    except OSError as error:
        posix.close(directory)
        raise StepError(error.errno or 0, "pidfd_send_signal", "linux.uidMappings", f"/proc/{pid}") from None
    return directory


def _lines(mappings: Any) -> str:
    return "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in mappings)


def _only_own(mappings: list[dict[str, int]], own: int) -> bool:
    return len(mappings) == 1 and mappings[0]["hostID"] == own and mappings[0]["size"] == 1


def _write(directory: int, name: str, text: str, field: str) -> None:
    try:
        fd = posix.open(name, posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=directory)
        try:
            posix.write(fd, text.encode())
        finally:
            posix.close(fd)
    except OSError as error:
        raise StepError(error.errno or 0, "write", field, name) from None


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

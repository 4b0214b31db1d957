"""Diagnosers: why did this fail, in words that help. Loaded only when something has failed."""

from __future__ import annotations

import posix
from errno import EACCES, ENOENT, ENOEXEC

from ocirt import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

CLD_EXITED, CLD_KILLED = 1, 2
ELF_MACHINES = {
    3: "i386",
    8: "mips",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}


def init_died(status: tuple[int, int, int] | None, ctx: Context) -> str:
    """Text for an init that ended without a report; a kill is most often the memory limit."""
    if status is None:
        return "ocirt-init ended before the container was ready"
    _pid, code, value = status
    if code == CLD_EXITED:
        return f"ocirt-init exited with status {value} before the container was ready"
    text = f"ocirt-init was killed by signal {value} before the container was ready"
    limit = ((ctx.linux.get("resources") or {}).get("memory") or {}).get("limit")
    if value == 9 and limit and limit > 0:
        killed = ctx.cgroup.oom_kills() if ctx.cgroup is not None else 0
        if killed:
            return f"linux.resources.memory.limit: {limit} bytes are too few to start in: out of memory"
    return text


def end_by_profile(spec: dict[str, Any]) -> list[str]:
    """What to say of an end by SIGILL: ocirt-init's where it may neither execute nor exit."""
    seccomp = (spec.get("linux") or {}).get("seccomp")
    passing = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
    if not seccomp or seccomp["defaultAction"] in passing:
        return []
    for rule in seccomp.get("syscalls") or []:
        if "exit_group" in rule["names"] and rule["action"] in passing:
            return []
    return ["linux.seccomp: the profile does not allow exit_group: SIGILL was the end, perhaps before execve"]


def executable_hint(ctx: Context, command: str, error: int, call: str) -> str:
    """Why the program was not run: architecture, interpreter, line endings, missing shebang.

    Read through the rootfs directory; empty when there is nothing to add.
    """
    if call == "find_executable" and error == ENOENT:
        return ""
    try:
        root = posix.open(ctx.rootfs, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return _look(root, ctx, command, error)
    except OSError:
        return ""
    finally:
        posix.close(root)


def _look(root: int, ctx: Context, command: str, error: int) -> str:
    fd = _open_in(root, _places(ctx, command))
    if fd is None:
        return ""
    try:
        if error == EACCES:
            mode = posix.fstat(fd).st_mode & 0o7777
            return "" if mode & 0o111 else f" (its mode is {mode:04o})"
        head = posix.read(fd, 4096)
    finally:
        posix.close(fd)
    if head.startswith(b"#!"):
        return _shebang(root, head)
    if head.startswith(b"\x7fELF"):
        return _elf(root, head, error)
    if error == ENOEXEC:
        return " (it is empty)" if not head else " (neither ELF nor a script with a #! line)"
    return ""


def _places(ctx: Context, command: str) -> list[str]:
    if "/" in command:
        cwd = (ctx.spec.get("process") or {}).get("cwd") or "/"
        return [command if command.startswith("/") else f"{cwd}/{command}"]
    path = next((word[5:] for word in ctx.env if word.startswith(b"PATH=")), b"")
    return [f"{directory}/{command}" for directory in kernel.fsdecode(path).split(":")]


def _open_in(root: int, places: list[str]) -> int | None:
    """Fd of the first regular file; opening a device of the container may do things to the host."""
    for place in places:
        try:
            fd = kernel.openat2(root, place, posix.O_PATH | posix.O_CLOEXEC, 0, kernel.RESOLVE_IN_ROOT)
        except OSError:
            continue
        try:
            if posix.fstat(fd).st_mode & 0o170000 == 0o100000:
                return posix.open(f"/proc/self/fd/{fd}", posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            continue
        finally:
            posix.close(fd)
    return None


def _shebang(root: int, head: bytes) -> str:
    line = head[2:].partition(b"\n")[0]
    words = line.split()
    if not words:
        return " (its #! line names no interpreter)"
    interpreter = words[0].decode("utf-8", "replace")
    if line.endswith(b"\r"):
        return (
            f" (its #! line ends in CR LF: the interpreter would be {interpreter!r} with a carriage return)"
        )
    fd = _open_in(root, [interpreter])
    if fd is None:
        return f" (its interpreter {interpreter} does not exist in the rootfs)"
    posix.close(fd)
    return ""


def _elf(root: int, head: bytes, error: int) -> str:
    if len(head) < 64:
        return " (its ELF header is cut short)"
    order = "little" if head[5] == 1 else "big"
    machine = ELF_MACHINES.get(int.from_bytes(head[18:20], order), "unknown")  # type: ignore[arg-type]
    own = posix.uname().machine
    if error == ENOEXEC and machine != own:
        return f" (it is for {machine}, this machine is {own})"
    if error != ENOENT or head[4] != 2 or order != "little":
        return ""
    offset = int.from_bytes(head[32:40], "little")
    for i in range(int.from_bytes(head[56:58], "little")):
        entry = head[offset + 56 * i : offset + 56 * (i + 1)]
        if len(entry) == 56 and int.from_bytes(entry[:4], "little") == 3:  # PT_INTERP
            start, size = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[32:40], "little")
            name = head[start : start + size].rstrip(b"\0").decode("utf-8", "replace")
            fd = _open_in(root, [name])
            if fd is None:
                return f" (its dynamic loader {name} does not exist in the rootfs)"
            posix.close(fd)
    return ""

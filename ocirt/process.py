"""process.*, and what of linux.* concerns one process: the last steps before the user's program.

Create and exec share these appliers; ROWS lists them in order. The order matters:

* rlimits above what the runtime has need CAP_SYS_RESOURCE of the host: the parent sets them.
* The bounding set, groups, gid and uid need capabilities that the container may not get, so those
  are given up after them; the working directory is entered with the user's ids but root's power
  over files: runc's users rely on a cwd that only root can reach, network file systems on the ids.
* The executable is looked up with the rights that it will be started with.
* Without noNewPrivileges, loading the filter needs CAP_SYS_ADMIN; seccomp(2) is the last call but
  execve(2). Nothing has to be given up behind it: execve computes the permitted set from the
  bounding, inheritable and ambient sets and the file, never from the old permitted set
  (capabilities(7), "Transformation of capabilities during execve()").
"""

from __future__ import annotations

import posix
from _struct import Struct

from ocirt import kernel
from ocirt.errors import SpecError, StepError, Unsupported
from ocirt.plan import NO_FD, SYNC_READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

NO_ID = 0xFFFFFFFF  # (uid_t) -1: never an id
DEFAULT_UMASK = 0o022
LAST_FD = 0xFFFFFFFF

POLICIES = {
    "SCHED_OTHER": "SCHED_NORMAL",
    "SCHED_FIFO": "SCHED_FIFO",
    "SCHED_RR": "SCHED_RR",
    "SCHED_BATCH": "SCHED_BATCH",
    "SCHED_IDLE": "SCHED_IDLE",
    "SCHED_DEADLINE": "SCHED_DEADLINE",
}
DOMAINS = {"LINUX": "PER_LINUX", "LINUX32": "PER_LINUX32"}
MAX_NODES = 1024  # MAX_NUMNODES of the widest kernels
MAX_CPUS = 8192  # NR_CPUS of the widest kernels

_SCHED_ATTR = Struct("<IIQiIQQQ")  # struct sched_attr, version 0
_RLIMIT = Struct("<QQ")


def apply_initial_affinity(ctx: Context, affinity: dict[str, Any]) -> None:
    """exec: where the process runs until it is in the container's cgroup."""
    _add_affinity(ctx, "initial", affinity)


def apply_final_affinity(ctx: Context, affinity: dict[str, Any]) -> None:
    """exec: where the process runs once it is in the container's cgroup."""
    _add_affinity(ctx, "final", affinity)


def _add_affinity(ctx: Context, name: str, affinity: dict[str, Any]) -> None:
    text = affinity.get(name)
    if not text or not ctx.is_exec:  # it is not for the container's init (config.md)
        return
    field = f"process.execCPUAffinity.{name}"
    mask = bit_mask(number_list(text, MAX_CPUS, field))
    ctx.plan.add("sched_setaffinity", field, 0, len(mask), mask, detail=text)


def apply_oom_score_adj(ctx: Context, value: int) -> None:
    """Written by the init itself, before it enters a user namespace."""
    if ctx.is_exec:
        return
    data = str(value).encode()
    field = "process.oomScoreAdj"
    flags = posix.O_WRONLY
    ctx.plan.add(
        "write_file", field, ctx.proc_handle(), b"self/oom_score_adj", data, flags, detail=str(value)
    )


def apply_cwd_directory(ctx: Context, cwd: str) -> None:
    """A working directory that is missing is made, as runc does; root owns it.

    Between the change of root and the moment when the root turns read-only. The place is resolved
    below the root and never through a magic link (CVE-2024-21626, CVE-2026-55686).
    """
    if ctx.is_exec or cwd == "/":
        return
    plan = ctx.plan
    # EACCES: root may not search it (network file systems); whether the user may shows later.
    plan.add(
        "target",
        "process.cwd",
        plan.target_register,
        ctx.root,
        kernel.fsencode(cwd),
        0,
        0o755,
        detail=cwd,
        tolerate=kernel.EACCES,
    )


def apply_stdio_owner(ctx: Context, user: dict[str, Any] | None) -> None:
    """The container's user becomes the owner of its stdio, so that it can open /dev/stdout."""
    ctx.plan.add("chown_stdio", "process.user.uid", _id(user, "uid"), NO_ID)


def apply_personality(ctx: Context, personality: dict[str, Any]) -> None:
    """linux.personality (config-linux.md, Personality)."""
    if personality.get("flags"):
        raise Unsupported("linux.personality.flags", "runtime-spec defines no flag yet")
    domain = personality["domain"]
    if domain not in DOMAINS:
        raise SpecError("linux.personality.domain", f"{domain!r} is neither LINUX nor LINUX32")
    persona = getattr(kernel, DOMAINS[domain])
    ctx.plan.add("personality", "linux.personality", persona, detail=domain)


def apply_scheduler(ctx: Context, asked: dict[str, Any]) -> None:
    """sched_setattr(2); times in nanoseconds."""
    field = "process.scheduler"
    policy = asked["policy"]
    if policy not in POLICIES:
        raise Unsupported(f"{field}.policy", f"Linux has no {policy}")
    flags = 0
    for name in asked.get("flags") or ():
        flags |= getattr(kernel, name)
    attributes = _SCHED_ATTR.pack(
        _SCHED_ATTR.size,
        getattr(kernel, POLICIES[policy]),
        flags,
        asked.get("nice") or 0,
        asked.get("priority") or 0,
        asked.get("runtime") or 0,
        asked.get("deadline") or 0,
        asked.get("period") or 0,
    )
    ctx.plan.add("sched_setattr", field, 0, attributes, 0, detail=policy)


def apply_io_priority(ctx: Context, asked: dict[str, Any]) -> None:
    name = asked["class"]
    priority = asked.get("priority") or 0
    value = getattr(kernel, name) << kernel.IOPRIO_CLASS_SHIFT | priority
    who = kernel.IOPRIO_WHO_PROCESS
    ctx.plan.add("ioprio_set", "process.ioPriority", who, 0, value, detail=f"{name} {priority}")


def apply_memory_policy(ctx: Context, asked: dict[str, Any]) -> None:
    """set_mempolicy(2); nodes like "0-3,7" (config-linux.md, Memory policy)."""
    field = "linux.memoryPolicy"
    mode = getattr(kernel, asked["mode"])
    for name in asked.get("flags") or ():
        mode |= getattr(kernel, name)
    nodes = asked.get("nodes") or ""
    mask = bit_mask(number_list(nodes, MAX_NODES, f"{field}.nodes")) if nodes else b""
    # The kernel takes one bit less than it is told.
    bits = len(mask) * 8 + 1 if mask else 0
    padded = mask + bytes(8) if mask else b""
    ctx.plan.add("set_mempolicy", field, mode, padded, bits, detail=f"{asked['mode']} {nodes}".rstrip())


def apply_no_new_privileges(ctx: Context, value: bool) -> None:
    if value:
        ctx.plan.add("prctl", "process.noNewPrivileges", kernel.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def apply_environment(ctx: Context, _env: Any) -> None:
    """One value per name, the last one; HOME from the container's passwd if it has none."""
    values: dict[bytes, bytes] = {}
    for entry in ctx.env:
        values[entry.partition(b"=")[0]] = entry
    if values.get(b"HOME", b"HOME=") == b"HOME=":
        values[b"HOME"] = b"HOME=/"
        index = list(values).index(b"HOME")
    else:
        index = -1
    # The ops share this one list: what set_home finds must reach execve.
    ctx.env[:] = values.values()
    if index >= 0:
        uid = _id((ctx.spec.get("process") or {}).get("user"), "uid")
        ctx.plan.add("set_home", "process.env", ctx.root, ctx.env, index, uid, detail="HOME")


def apply_user(ctx: Context, user: dict[str, Any] | None) -> None:
    """Groups, gid, uid and umask; capabilities survive the change for what follows."""
    plan = ctx.plan
    user = user or {}
    uid, gid = _id(user, "uid"), _id(user, "gid")
    if uid:
        plan.add("prctl", "process.user.uid", kernel.PR_SET_KEEPCAPS, 1, 0, 0, 0, detail="keep capabilities")
    groups = user.get("additionalGids") or ()
    data = Struct(f"<{len(groups)}I").pack(*groups)
    # EPERM: a user namespace whose setgroups file says "deny" cannot drop its groups either.
    may_be_denied = not groups and (ctx.userns or ctx.host.euid != 0 or ctx.host.rootless)
    plan.add(
        "setgroups",
        "process.user.additionalGids",
        len(groups),
        data,
        detail=" ".join(str(group) for group in groups),
        tolerate=kernel.EPERM if may_be_denied else 0,
    )
    plan.add("setresgid", "process.user.gid", gid, gid, gid, detail=str(gid))
    plan.add("setresuid", "process.user.uid", uid, uid, uid, detail=str(uid))
    umask = user.get("umask")
    plan.add("umask", "process.user.umask", DEFAULT_UMASK if umask is None else umask & 0o777)


def apply_cwd(ctx: Context, cwd: str) -> None:
    """chdir, and the kernel's word that the place lies inside the root (CVE-2024-21626)."""
    from ocirt.capabilities import power_over_files

    power_over_files(ctx)
    ctx.plan.add("enter_cwd", "process.cwd", kernel.fsencode(cwd), detail=cwd)


def apply_executable(ctx: Context, _args: Any) -> None:
    """Look args[0] up in PATH: that it is missing is an error of create, not of start."""
    ctx.plan.add("find_executable", "process.args", ctx.argv, ctx.env, detail=kernel.fsdecode(ctx.argv[0]))


def apply_rlimits(ctx: Context, rlimits: list[dict[str, Any]]) -> None:
    """By the parent at READY if it may raise limits; else by the init itself.

    Without CAP_SYS_RESOURCE the parent has no power over limits that the init lacks, and none at
    all over a process that has become another user.
    """
    from ocirt.capabilities import held

    if not rlimits:
        return
    wanted = []
    for i, limit in enumerate(rlimits):
        field = f"process.rlimits[{i}]"
        number = rlimit_number(limit["type"], field)
        wanted.append((field, limit["type"], number, limit["soft"], limit["hard"]))
    if held(ctx) >> kernel.CAP_SYS_RESOURCE & 1:
        ctx.plan.at("READY", "process.rlimits", "prlimit", lambda launch: _set_rlimits(launch.pid, wanted))
        return
    for field, name, number, soft, hard in wanted:
        detail = f"{name} {_limit(soft)}:{_limit(hard)}"
        ctx.plan.add("prlimit64", field, 0, number, _RLIMIT.pack(soft, hard), 0, detail=detail)


def _set_rlimits(pid: int, wanted: list[tuple[str, str, int, int, int]]) -> None:
    for field, name, number, soft, hard in wanted:
        try:
            kernel.prlimit(pid, number, soft, hard)
        except OSError as error:
            detail = f"{name} {_limit(soft)}:{_limit(hard)}"
            raise StepError(error.errno or 0, "prlimit", field, detail) from None


def _limit(value: int) -> str:
    return "unlimited" if value == kernel.INFINITY else str(value)


def rlimit_number(name: str, field: str) -> int:
    """Number of RLIMIT_NOFILE and so on. Raises SpecError."""
    number = getattr(kernel, name, None) if name.startswith("RLIMIT_") else None
    if number is None:
        raise SpecError(field, f"{name!r} is not a resource limit", "config.md, POSIX process")
    return int(number)


def apply_ready(ctx: Context, _process: Any) -> None:
    """Everything that can fail for the container's own reasons has been done.

    What is still open goes first: neither a waiting init nor a startContainer hook needs the
    host's /proc, cgroups or mounts.
    """
    first = max(ctx.plan.keep_fds, default=2) + 1
    socket = NO_FD if ctx.start_socket is None else ctx.start_socket
    ctx.plan.add("close_others", "process", first, socket, detail=f"from {first}")
    ctx.plan.add("sync", "process", SYNC_READY)


def apply_close_fds(ctx: Context, _process: Any) -> None:
    """The program gets 0, 1, 2 and what --preserve-fds names, and no other fd."""
    first = max(ctx.plan.keep_fds, default=2) + 1
    flags = kernel.CLOSE_RANGE_CLOEXEC
    ctx.plan.add("close_range", "process", first, LAST_FD, flags, detail=f"from {first}")


def apply_exec_record(ctx: Context, _process: Any) -> None:
    """Behind this record, end-of-file means that the program runs."""
    ctx.plan.add("exec_follows", "process")


def apply_exec(ctx: Context, _args: Any) -> None:
    ctx.plan.add("execve", "process.args", ctx.argv, ctx.env, detail=kernel.fsdecode(b" ".join(ctx.argv)))


def _id(user: dict[str, Any] | None, name: str) -> int:
    return int((user or {}).get(name) or 0)


def number_list(text: str, limit: int, field: str) -> list[int]:
    """[0, 1, 2, 7] of "0-2,7". Raises SpecError; numbers are below limit."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not is_decimal(first) or (dash and not is_decimal(last)):
            raise SpecError(field, f"{text!r} is not a list of numbers and ranges")
        low, high = int(first), int(last if dash else first)
        if low > high or high >= limit:
            raise SpecError(field, f"{part.strip()!r} is not a range below {limit}")
        numbers += range(low, high + 1)
    return numbers


def bit_mask(numbers: list[int]) -> bytes:
    """Words of 64 bits, the lowest first."""
    mask = 0
    for number in numbers:
        mask |= 1 << number
    words = mask.bit_length() // 64 + 1
    return mask.to_bytes(words * 8, "little")


def is_decimal(text: str) -> bool:
    """ASCII digits and nothing else; int() alone takes signs, blanks, underscores and more."""
    return len(text) <= 20 and text.isascii() and text.isdigit()


def parse_user(text: str) -> tuple[int, int | None]:
    """(uid, gid or None) of exec --user UID[:GID].

    Every part that is there must be a number below 2**32 - 1: `1:`, `:1`, `-1`, `1abc` and empty
    are refused (CVE-2026-30892: they gave another user). Raises SpecError.
    """
    first, colon, second = text.partition(":")
    uid = _parse_id(first, text)
    return uid, _parse_id(second, text) if colon else None


def _parse_id(digits: str, text: str) -> int:
    if not is_decimal(digits) or int(digits) >= NO_ID:
        raise SpecError("process.user", f"{text!r} is not UID or UID:GID with numbers below {NO_ID}")
    return int(digits)

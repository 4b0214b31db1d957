"""From a profile to a BPF program, by libseccomp. Loaded only for profiles that are not cached.

The program begins with a part of our own: a syscall whose number is above every one that the
profile names gets ENOSYS instead of an unpermissive default action. It is newer than the profile,
and C libraries fall back to an older call on ENOSYS, but take EPERM for an answer.
"""

from __future__ import annotations

import posix
from _struct import Struct

from ocirt import kernel
from ocirt.errors import SpecError, Unsupported
from ocirt.seccomp import FIELD, HEADER, MAGIC

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SECTION = "config-linux.md, Seccomp"
MAX_FILES = 128  # in the cache
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MAX_ERRNO = 4095  # what the kernel can return
MAX_TRACE_DATA = 0xFFFF  # SECCOMP_RET_DATA
X32_BIT = 0x40000000  # __X32_SYSCALL_BIT
BINARY_TREE = 2  # SCMP_FLTATR_CTL_OPTIMIZE: a search tree instead of a list of rules
VERSION_WITH_TREE = (2, 5, 0)

# action -> (constant of libseccomp, takes errnoRet)
ACTIONS = {
    "SCMP_ACT_KILL": ("SCMP_ACT_KILL_THREAD", False),
    "SCMP_ACT_KILL_THREAD": ("SCMP_ACT_KILL_THREAD", False),
    "SCMP_ACT_KILL_PROCESS": ("SCMP_ACT_KILL_PROCESS", False),
    "SCMP_ACT_TRAP": ("SCMP_ACT_TRAP", False),
    "SCMP_ACT_ERRNO": ("SECCOMP_RET_ERRNO", True),
    "SCMP_ACT_TRACE": ("SECCOMP_RET_TRACE", True),
    "SCMP_ACT_LOG": ("SCMP_ACT_LOG", False),
    "SCMP_ACT_ALLOW": ("SCMP_ACT_ALLOW", False),
}
# With these as the default action a new syscall is let through (or decided by a tracer).
PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

_INSTRUCTION = Struct("<HBBI")  # struct sock_filter
_LOAD_NUMBER, _LOAD_ARCH = 0, 4  # offsets in struct seccomp_data


def compile_filter(profile: dict[str, Any]) -> bytes:
    """struct sock_filter[] of a profile. Loads libseccomp; some milliseconds."""
    from ocirt._seccomp import ffi, lib

    default = _action(lib, profile["defaultAction"], profile.get("defaultErrnoRet"), FIELD)
    context = lib.seccomp_init(default)
    if context == ffi.NULL:
        raise SpecError(f"{FIELD}.defaultAction", f"libseccomp refuses {profile['defaultAction']}", SECTION)
    try:
        _add_architectures(lib, context, profile)
        version = lib.seccomp_version()
        if (version.major, version.minor, version.micro) >= VERSION_WITH_TREE:
            lib.seccomp_attr_set(context, lib.SCMP_FLTATR_CTL_OPTIMIZE, BINARY_TREE)
        for i, rule in enumerate(profile.get("syscalls") or ()):
            _add_rule(lib, ffi, context, rule, default, f"{FIELD}.syscalls[{i}]")
        program = _export(lib, context)
    finally:
        lib.seccomp_release(context)
    program = _newer_syscalls(lib, profile, default) + program
    count = len(program) // _INSTRUCTION.size
    if count > MAX_INSTRUCTIONS:
        raise SpecError(FIELD, f"the filter has {count} instructions, the kernel takes {MAX_INSTRUCTIONS}")
    return program


def store(directory: int, name: str, program: bytes) -> None:
    """Put a program into the cache. Whatever is wrong there, this container does not need it."""
    path = library_path()
    if path is None:
        return
    temporary = f"{name}.{posix.getpid()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        status = posix.stat(path)
        facts = (MAGIC, status.st_ino, status.st_size, status.st_mtime_ns, len(path), len(program))
        _make_room(directory)
        fd = posix.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            kernel.write_all(fd, HEADER.pack(*facts) + path + program)
        finally:
            posix.close(fd)
        posix.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except OSError:
        try:
            posix.unlink(temporary, dir_fd=directory)
        except OSError:
            return


def _make_room(directory: int) -> None:
    """Profiles that are made anew for each container must not fill /run."""
    names = posix.listdir(directory)
    if len(names) < MAX_FILES:
        return
    ages = [(posix.stat(name, dir_fd=directory).st_mtime_ns, name) for name in names]
    for _, name in sorted(ages)[: MAX_FILES // 2]:
        posix.unlink(name, dir_fd=directory)


def library_path() -> bytes | None:
    """The name under which the loader found libseccomp: its link, so that an upgrade shows."""
    for line in kernel.read_file("/proc/self/maps").splitlines():
        path = line.rpartition(b" ")[2]
        directory, _, file = path.rpartition(b"/")
        if file.startswith(b"libseccomp.so"):
            return directory + b"/libseccomp.so.2"
    return None


def library_version() -> tuple[str, int]:
    """("2.5.4", API level): the level is what the running kernel lets libseccomp do."""
    from ocirt._seccomp import lib

    version = lib.seccomp_version()
    return f"{version.major}.{version.minor}.{version.micro}", lib.seccomp_api_get()


def _action(lib: Any, name: str, errno_ret: int | None, field: str) -> int:
    if name not in ACTIONS:
        raise SpecError(field, f"{name!r} is not an action", SECTION)
    constant, takes_errno = ACTIONS[name]
    action: int = getattr(lib, constant)
    if not takes_errno:
        return action
    value = kernel.EPERM if errno_ret is None else errno_ret
    limit = MAX_ERRNO if name == "SCMP_ACT_ERRNO" else MAX_TRACE_DATA
    if value > limit:
        raise SpecError(field, f"errnoRet {value} is above {limit}", SECTION)
    return action | value


def _add_architectures(lib: Any, context: Any, profile: dict[str, Any]) -> None:
    for i, name in enumerate(profile.get("architectures") or ()):
        field = f"{FIELD}.architectures[{i}]"
        error = lib.seccomp_arch_add(context, _architecture(lib, name, field))
        if error and error != -kernel.EEXIST:  # the native one is there already
            raise Unsupported(field, f"{name} on this machine: libseccomp: {posix.strerror(-error)}")


def _architecture(lib: Any, name: str, field: str) -> int:
    token: int = lib.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
    if not token:
        raise Unsupported(field, f"libseccomp {library_version()[0]} does not know {name}")
    return token


def _add_rule(lib: Any, ffi: Any, context: Any, rule: dict[str, Any], default: int, field: str) -> None:
    action = _action(lib, rule["action"], rule.get("errnoRet"), field)
    if action == default:
        return  # libseccomp refuses a rule that changes nothing
    conditions = rule.get("args") or ()
    indexes = [condition["index"] for condition in conditions]
    if len(set(indexes)) < len(indexes):
        # libseccomp takes one condition for each argument: then any of them suffices, as in runc.
        alternatives = [[condition] for condition in conditions]
    else:
        alternatives = [list(conditions)]
    compiled = [
        (len(choice), ffi.new("struct scmp_arg_cmp[]", [_condition(lib, c, field) for c in choice]))
        for choice in alternatives
    ]
    for name in rule["names"]:
        number = lib.seccomp_syscall_resolve_name(kernel.fsencode(name))
        if number == lib.__NR_SCMP_ERROR:
            continue  # newer than libseccomp, or of another kind of machine
        for count, table in compiled:
            error = lib.seccomp_rule_add_array(context, action, number, count, table)
            if error and error != -kernel.EEXIST:
                reason = f"{name}: libseccomp refuses the rule: {posix.strerror(-error)}"
                raise SpecError(field, reason, SECTION)


def _condition(lib: Any, condition: dict[str, Any], field: str) -> tuple[int, int, int, int]:
    """struct scmp_arg_cmp. MASKED_EQ: (argument & value) == valueTwo."""
    operator = condition["op"]
    second = condition.get("valueTwo") or 0
    number = getattr(lib, operator, None)
    if number is None:
        raise SpecError(field, f"{operator!r} is not an operator", SECTION)
    return condition["index"], number, condition["value"], second


def _export(lib: Any, context: Any) -> bytes:
    fd = kernel.memfd_create("seccomp", kernel.MFD_NOEXEC_SEAL)
    try:
        error = lib.seccomp_export_bpf(context, fd)
        if error:
            raise SpecError(FIELD, f"libseccomp cannot make a filter of it: {posix.strerror(-error)}")
        return posix.pread(fd, posix.fstat(fd).st_size, 0)
    finally:
        posix.close(fd)


def _newer_syscalls(lib: Any, profile: dict[str, Any], default: int) -> bytes:
    """Instructions that go before the filter and fall through into it, or b"" if none are wanted.

    For each architecture: load the number; above the highest that the profile names: ENOSYS.
    """
    enosys = lib.SECCOMP_RET_ERRNO | kernel.ENOSYS
    if profile["defaultAction"] in PERMISSIVE or default == enosys:
        return b""
    tokens = [lib.seccomp_arch_native()]
    for name in profile.get("architectures") or ():
        token = _architecture(lib, name, FIELD)
        if token not in tokens:
            tokens.append(token)
    highest = {token: _highest(lib, token, profile) for token in tokens}
    x32 = highest.pop(lib.SCMP_ARCH_X32, None)
    blocks = []
    for token, number in highest.items():
        if number is not None:
            x32_limit = (x32, token == lib.SCMP_ARCH_X86_64)
            blocks.append((token, _limit_block(number, *x32_limit, enosys)))
    if not blocks:
        return b""
    load_arch = _pack(kernel.BPF_LD | kernel.BPF_W | kernel.BPF_ABS, 0, 0, _LOAD_ARCH)
    jump_if_equal = kernel.BPF_JMP | kernel.BPF_JEQ | kernel.BPF_K
    jump = kernel.BPF_JMP | kernel.BPF_JA
    parts: list[bytes] = []
    size = _INSTRUCTION.size
    # Backwards: each block jumps over all that follow.
    behind = 0
    for token, block in reversed(blocks):
        length = len(block) // size
        block += _pack(jump, 0, 0, behind)
        parts.insert(0, _pack(jump_if_equal, 0, length + 1, token) + block)
        behind += length + 2
    return load_arch + b"".join(parts)


def _limit_block(number: int, x32: int | None, is_x86_64: bool, enosys: int) -> bytes:
    """ENOSYS above number. x86_64: x32 calls have their own limit, or none, in the same space."""
    above = kernel.BPF_JMP | kernel.BPF_JGT | kernel.BPF_K
    at_least = kernel.BPF_JMP | kernel.BPF_JGE | kernel.BPF_K
    refuse = _pack(kernel.BPF_RET | kernel.BPF_K, 0, 0, enosys)
    load = _pack(kernel.BPF_LD | kernel.BPF_W | kernel.BPF_ABS, 0, 0, _LOAD_NUMBER)
    if not is_x86_64:
        return load + _pack(above, 0, 1, number) + refuse
    if x32 is None:
        # The profile does not have x32: what the filter does with it is left to the filter.
        return load + _pack(at_least, 2, 0, X32_BIT) + _pack(above, 0, 1, number) + refuse
    return (
        load + _pack(at_least, 1, 0, X32_BIT) + _pack(above, 1, 2, number) + _pack(above, 0, 1, x32) + refuse
    )


def _pack(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


def _highest(lib: Any, token: int, profile: dict[str, Any]) -> int | None:
    """Number of the newest syscall that the profile names; None when it names none."""
    highest = -1
    for rule in profile.get("syscalls") or ():
        for name in rule["names"]:
            number = lib.seccomp_syscall_resolve_name_arch(token, kernel.fsencode(name))
            highest = max(highest, number)  # negative: not on this architecture
    return highest if highest >= 0 else None

"""linux.resources.devices: rules in order, as lines for v1 and as an eBPF program for v2.

Each of the accesses r, w, m is decided by the last rule that names it and matches the device.
Nothing is allowed before the first rule, and what every container needs is allowed after the last.
"""

from __future__ import annotations

from _struct import Struct

from ocirt.errors import SpecError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = tuple[bool, str, int, int, str, int]  # allow, type, major, minor, access, index

FIELD = "linux.resources.devices"
SECTION = "config-linux.md, Allowed Device list"
ALL = "rwm"
ANY = -1

# Needed by what the runtime itself puts into /dev (config-linux.md, Default Devices), and mknod of
# any node, which gives no access to the device. tun is there because runc and crun allow it.
IMPLICIT: tuple[tuple[str, int, int, str], ...] = (
    ("c", ANY, ANY, "m"),
    ("b", ANY, ANY, "m"),
    ("c", 1, 3, ALL),  # null
    ("c", 1, 5, ALL),  # zero
    ("c", 1, 7, ALL),  # full
    ("c", 1, 8, ALL),  # random
    ("c", 1, 9, ALL),  # urandom
    ("c", 5, 0, ALL),  # tty
    ("c", 5, 1, ALL),  # console
    ("c", 5, 2, ALL),  # ptmx
    ("c", 136, ANY, ALL),  # pts/*
    ("c", 10, 200, ALL),  # net/tun
)


def rules(entries: list[dict[str, Any]] | None) -> list[Rule]:
    """The rules in force, in order: the first one allows or denies everything."""
    result: list[Rule] = [(False, "a", ANY, ANY, ALL, ANY)]
    for index, entry in enumerate(entries or ()):
        allow = bool(entry.get("allow"))
        kind = entry.get("type") or "a"
        major, minor = entry.get("major"), entry.get("minor")
        major = ANY if major is None or major < 0 else major
        minor = ANY if minor is None or minor < 0 else minor
        access = entry.get("access") or ALL
        if kind not in ("a", "b", "c") or not set(access) <= set(ALL):
            raise SpecError(
                f"{FIELD}[{index}]", f"no device rule has type {kind!r} and access {access!r}", SECTION
            )
        access = "".join(letter for letter in ALL if letter in access)
        if kind == "a" and major == minor == ANY and access == ALL:
            result = [(allow, "a", ANY, ANY, ALL, index)]  # nothing before it counts
        else:
            kinds = ("b", "c") if kind == "a" else (kind,)
            result += [(allow, k, major, minor, access, index) for k in kinds]
    if not result[0][0] or len(result) > 1:
        result += [(True, *rule, ANY) for rule in IMPLICIT]
    return result


def allows_everything(wanted: list[Rule]) -> bool:
    return len(wanted) == 1 and wanted[0][0]


# cgroup v1


def v1_lines(wanted: list[Rule]) -> list[tuple[str, str, int]]:
    """(file, line, index of the rule) in the order of writing.

    v1 keeps one default and exceptions from it. It removes an exception only by the same numbers:
    one device denied out of an allowed range would silently stay allowed, so that is refused.
    """
    first_allow = wanted[0][0]
    lines = [("devices.allow" if first_allow else "devices.deny", "a", wanted[0][5])]
    exceptions: dict[tuple[str, int, int], set[str]] = {}
    for allow, kind, major, minor, access, index in wanted[1:]:
        key = (kind, major, minor)
        if allow != first_allow:
            exceptions.setdefault(key, set()).update(access)
        else:
            _refuse_overlap(exceptions, key, access, index, allow)
            if key not in exceptions or not exceptions[key] & set(access):
                continue
            exceptions[key] -= set(access)
        file = "devices.allow" if allow else "devices.deny"
        lines.append((file, f"{kind} {_star(major)}:{_star(minor)} {access}", index))
    return lines


def _refuse_overlap(
    exceptions: dict[tuple[str, int, int], set[str]],
    key: tuple[str, int, int],
    access: str,
    index: int,
    allow: bool,
) -> None:
    kind, major, minor = key
    for (other, its_major, its_minor), letters in exceptions.items():
        if other != kind or (other, its_major, its_minor) == key or not letters & set(access):
            continue
        if (ANY in (major, its_major) or major == its_major) and (
            ANY in (minor, its_minor) or minor == its_minor
        ):
            if index == ANY:
                return  # an implicit rule behind a wider denial: denied stays denied
            word = "allow" if allow else "deny"
            rule = f"{kind} {_star(its_major)}:{_star(its_minor)}"
            raise Unsupported(
                f"{FIELD}[{index}]", f"cgroup v1 cannot {word} a part of the earlier rule {rule}"
            )


def _star(number: int) -> str:
    return "*" if number == ANY else str(number)


# cgroup v2

_INSN = Struct("<BBhI")
_BITS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
# Opcodes of linux/bpf.h, put together as there: class | size or operation | source.
_LOAD_W = 0x61  # BPF_LDX | BPF_MEM | BPF_W
_MOV = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_MOV_X = 0xBF  # BPF_ALU64 | BPF_MOV | BPF_X
_AND = 0x57  # BPF_ALU64 | BPF_AND | BPF_K
_RSH = 0x77  # BPF_ALU64 | BPF_RSH | BPF_K
_JNE = 0x55  # BPF_JMP | BPF_JNE | BPF_K
_JSET = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_JA = 0x05  # BPF_JMP | BPF_JA
_EXIT = 0x95  # BPF_JMP | BPF_EXIT
_R0, _CTX, _TYPE, _ACCESS, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def program(wanted: list[Rule]) -> bytes:
    """Instructions of a BPF_PROG_TYPE_CGROUP_DEVICE program for the rules.

    The rules run from the last to the first: one that allows takes its accesses off those that
    are still to be decided, one that denies any of them ends the matter.
    """
    code = [
        _INSN.pack(_LOAD_W, _TYPE | _CTX << 4, 0, 0),  # bpf_cgroup_dev_ctx.access_type
        _INSN.pack(_LOAD_W, _MAJOR | _CTX << 4, 4, 0),
        _INSN.pack(_LOAD_W, _MINOR | _CTX << 4, 8, 0),
        _INSN.pack(_MOV_X, _ACCESS | _TYPE << 4, 0, 0),
        _INSN.pack(_RSH, _ACCESS, 0, 16),  # high half: access
        _INSN.pack(_AND, _TYPE, 0, 0xFFFF),  # low half: type
    ]
    for allow, kind, major, minor, access, _index in reversed(wanted[1:]):
        code += _rule(allow, kind, major, minor, access)
    code += [_INSN.pack(_MOV, _R0, 0, int(wanted[0][0])), _INSN.pack(_EXIT, 0, 0, 0)]
    return b"".join(code)


def _rule(allow: bool, kind: str, major: int, minor: int, access: str) -> list[bytes]:
    mask = sum(_BITS[letter] for letter in access)
    if allow:
        action = [
            _INSN.pack(_AND, _ACCESS, 0, 7 & ~mask),
            _INSN.pack(_JNE, _ACCESS, 2, 0),
            _INSN.pack(_MOV, _R0, 0, 1),
            _INSN.pack(_EXIT, 0, 0, 0),
        ]
    else:
        action = [
            _INSN.pack(_JSET, _ACCESS, 1, mask),
            _INSN.pack(_JA, 0, 2, 0),
            _INSN.pack(_MOV, _R0, 0, 0),
            _INSN.pack(_EXIT, 0, 0, 0),
        ]
    tests = [(_TYPE, _TYPES[kind])]
    tests += [(register, n) for register, n in ((_MAJOR, major), (_MINOR, minor)) if n != ANY]
    code = []
    for i, (register, number) in enumerate(tests):
        skip = len(tests) - i - 1 + len(action)
        code.append(_INSN.pack(_JNE, register, skip, number & 0xFFFFFFFF))
    return code + action


def attach(directory: str, wanted: list[Rule]) -> None:
    """Let the program decide for a v2 cgroup. An older one of ours works until the new one does."""
    import posix

    from ocirt import kernel

    prog_type, attach_type = kernel.BPF_PROG_TYPE_CGROUP_DEVICE, kernel.BPF_CGROUP_DEVICE
    group = posix.open(directory, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)
    old: list[int] = []
    prog = -1
    try:
        prog = kernel.bpf_prog_load(prog_type, program(wanted), "Apache-2.0", "ocirt_devices", attach_type)
        old = [kernel.bpf_prog_get_fd_by_id(i) for i in kernel.bpf_prog_query(group, attach_type)]
        if len(old) == 1:
            flags = kernel.BPF_F_ALLOW_MULTI | kernel.BPF_F_REPLACE
            kernel.bpf_prog_attach(group, prog, attach_type, flags, old[0])
            return
        kernel.bpf_prog_attach(group, prog, attach_type, kernel.BPF_F_ALLOW_MULTI)
        for fd in old:
            kernel.bpf_prog_detach(group, fd, attach_type)
    finally:
        for fd in (group, prog, *old):
            if fd >= 0:
                posix.close(fd)

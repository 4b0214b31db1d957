"""A plan in words: what `ocirt plan` prints and golden tests compare.

Flags and structures appear under the names that the manuals use; fds under the name of what they
are. Off the hot path: loaded by `ocirt plan` and by tests.
"""

from __future__ import annotations

from struct import iter_unpack, unpack
from typing import TYPE_CHECKING, Any

from ocirt import kernel
from ocirt._shim import lib
from ocirt.plan import AT_FDCWD, KINDS, NO_FD, SIGNATURE, SYNC_NAMES, Handle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ocirt.context import Context
    from ocirt.plan import Op

WHO = {
    "OPEN": "ocirt opens; nothing is changed yet",
    "CGROUP": "ocirt",
    "SPAWN": "ocirt",
    "ENTER": "ocirt-init, stage 1",
    "CHILD": "ocirt-init, in its namespaces",
    "PROCESS": "ocirt-init, becomes the user's process",
    "LAST": "ocirt-init, from start on",
    "AFTER": "ocirt",
}
ARGUMENTS = {name: names.replace("_", " ").split() for name, _, names in KINDS}
ARGUMENTS["move_mount"] = ["from", "path", "to", "path", "flags"]
LONGEST = 72  # characters of a list or text; the rest is an ellipsis
WIDTH = 30  # of the column of fields, always: so that two plans can be compared


def document(ctx: Context) -> dict[str, Any]:
    """The whole plan as JSON can hold it: one entry per step, in the order of execution."""
    steps = [
        {"phase": phase, "who": who, "field": field, "call": call, "detail": detail}
        for phase, who, field, call, detail in steps_of(ctx)
    ]
    return {"id": ctx.id, "bundle": ctx.bundle, "steps": steps, "warnings": ctx.warnings}


def text(ctx: Context) -> str:
    """One line per step: field and call, below the phase that they belong to."""
    lines = []
    before = ""
    for phase, who, field, call, _ in steps_of(ctx):
        if phase != before:
            lines.append(f"{phase}  ({WHO[phase]})")
            before = phase
        # What the parent does while the init waits stands one step further in.
        margin = "      " if who == "ocirt" and phase in ("ENTER", "CHILD", "PROCESS") else "  "
        lines.append(f"{margin}{field or '-':{WIDTH}} {call}")
    return "\n".join(lines) + "\n"


def steps_of(ctx: Context) -> Iterator[tuple[str, str, str, str, str]]:
    """(phase, who, field, call, detail) of all steps, those of the parent where they happen."""
    made = ctx.plan
    if made.early:
        yield from _spawn(ctx)
    for late in (False, True):
        if not late:
            yield from _actions(ctx, "OPEN", "OPEN")
        for handle in made.handles:
            if handle.late is late:
                yield "CGROUP" if late else "OPEN", "ocirt", handle.field, f"open {handle.name}", ""
        if not late:
            yield from _actions(ctx, "CGROUP", "CGROUP")
    if not made.early:
        yield from _spawn(ctx)
    for op in made.ops:
        yield op.phase, "ocirt-init", op.field, call(op, ctx), op.detail
        if op.kind == "sync":
            yield from _actions(ctx, SYNC_NAMES[op.args[0]], op.phase)
    yield from _actions(ctx, "AFTER", "AFTER")


def _spawn(ctx: Context) -> Iterator[tuple[str, str, str, str, str]]:
    made = ctx.plan
    into = f", cgroup={made.into_cgroup!r}" if made.into_cgroup is not None else ""
    clone = f"clone3({_names('CLONE_', made.clone_flags)}{into})"
    yield "SPAWN", "ocirt", "linux.namespaces", clone, ""
    if made.unshare_flags:
        unshare = f"ocirt-init: unshare({_names('CLONE_', made.unshare_flags)})"
        yield "SPAWN", "ocirt-init", "linux.namespaces", unshare, ""


def _actions(ctx: Context, when: str, phase: str) -> Iterator[tuple[str, str, str, str, str]]:
    for action in ctx.plan.actions_at(when):
        yield phase, "ocirt", action.field, action.text, ""
        if action.text == "write limits" and ctx.cgroup is not None:
            for field, file, value in ctx.cgroup.describe(ctx.linux.get("resources") or {}):
                yield phase, "ocirt", field, f"write {value!r} to {file}", ""


def call(op: Op, ctx: Context) -> str:
    """One operation as a call with its arguments by name."""
    if op.kind == "sync":
        return f"sync {SYNC_NAMES[op.args[0]]}: ocirt goes on when it has done"
    words = []
    for letter, name, value in zip(SIGNATURE[op.kind], ARGUMENTS[op.kind], op.args, strict=False):
        show = SHOWN.get((op.kind, name)) or SHOWN.get(("", name))
        if letter in "do":
            words.append(_fd(value, ctx))
        elif show is not None:
            words.append(show(value))
        else:
            words.append(_plain(value))
    if op.kind == "prctl":
        words = _prctl(op.args)
    made = f"{op.kind}({', '.join(words)})"
    if op.tolerate:
        made += f"  # {_errno(op.tolerate)} is fine"
    return made


def _fd(value: Any, ctx: Context) -> str:
    if isinstance(value, Handle):
        return repr(value)
    if value == AT_FDCWD:
        return "AT_FDCWD"
    if value == NO_FD:
        return "-1"
    if value <= -1000:
        return f"${ctx.plan.register_names[-1000 - value]}"
    return str(value)


def _plain(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return _cut("[" + ", ".join(_plain(word) for word in value) + "]")
    if isinstance(value, bytes):
        decoded = value.decode("utf-8", "backslashreplace")
        return f'"{_cut(decoded)}"' if decoded.isprintable() else f"<{len(value)} bytes>"
    return str(value)


def _cut(shown: str) -> str:
    return shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"


def _prctl(args: tuple[Any, ...]) -> list[str]:
    # PR_CAP_AMBIENT_* are values of an argument.
    options = (name for name in _all("PR_SET_", "PR_CAPBSET_") if getattr(kernel, name) == args[0])
    option = next(options, str(args[0]))
    return [option, str(args[1])]


def _errno(number: int) -> str:
    import errno

    return errno.errorcode.get(number, str(number))


def _all(*prefixes: str) -> list[str]:
    return [name for name in dir(lib) if name.startswith(prefixes)]


def _names(prefix: str, value: int, *, zero: str = "0") -> str:
    """Names of the single bits of a mask that start with prefix; what has no name in hex."""
    if not value:
        return zero
    found = []
    left = value
    for name in sorted(_all(*prefix.split()), key=lambda name: getattr(kernel, name)):
        bit = getattr(kernel, name)
        if bit > 0 and bit & (bit - 1) == 0 and left & bit:
            found.append(name)
            left &= ~bit
    return "|".join(found + ([hex(left)] if left else []))


def _flags(prefix: str) -> Callable[[int], str]:
    return lambda value: _names(prefix, value)


def _enum(prefix: str) -> Callable[[int], str]:
    def show(value: int) -> str:
        return next((name for name in _all(prefix) if getattr(kernel, name) == value), str(value))

    return show


def _open_flags(value: int) -> str:
    import os

    access = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}[value & 3]
    names = ["O_CREAT", "O_EXCL", "O_TRUNC", "O_APPEND", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW"]
    names += ["O_CLOEXEC", "O_PATH", "O_NOCTTY"]
    return "|".join([access, *(name for name in names if value & getattr(os, name))])


def _open_tree_flags(value: int) -> str:
    import os

    words = ["OPEN_TREE_CLOEXEC"] if value & os.O_CLOEXEC else []
    rest = value & ~os.O_CLOEXEC
    for name in ("OPEN_TREE_CLONE", "AT_RECURSIVE", "AT_EMPTY_PATH", "AT_SYMLINK_NOFOLLOW"):
        if rest & getattr(kernel, name):
            words.append(name)
    return "|".join(words) or "0"


def _mount_attributes(value: int) -> str:
    """Access times are a number within the mask, not bits of their own; 0 is relatime."""
    atime = value & kernel.MOUNT_ATTR__ATIME
    words = [_names("MOUNT_ATTR_", value & ~atime, zero="")]
    for name in ("MOUNT_ATTR__ATIME", "MOUNT_ATTR_NOATIME", "MOUNT_ATTR_STRICTATIME"):
        if atime == getattr(kernel, name):
            words.append(name)
    return "|".join(filter(None, words)) or "0"


def _mount_attr(value: bytes) -> str:
    """struct mount_attr."""
    attr_set, attr_clear, propagation, userns = unpack("<4Q", value)
    words = []
    if attr_set:
        words.append(f"set {_mount_attributes(attr_set)}")
    if attr_clear:
        words.append(f"clear {_mount_attributes(attr_clear)}")
    if propagation:
        words.append(_names("MS_", propagation))
    if attr_set & kernel.MOUNT_ATTR_IDMAP:
        words.append(f"userns fd {userns}")
    return ", ".join(words) or "nothing"


def _move_flags(value: int) -> str:
    return _names("MOVE_MOUNT_", value)


def _octal(value: int) -> str:
    return f"{value & 0o7777:04o}"


def _device(value: int) -> str:
    import os

    return f"{os.major(value)}:{os.minor(value)}"


def _node_mode(value: int) -> str:
    kind = {0o020000: "c", 0o060000: "b", 0o010000: "p"}.get(value & 0o170000, "?")
    return f"{kind} {_octal(value)}"


def _capabilities(mask: int) -> str:
    from ocirt.capabilities import names_of

    if mask & ((1 << 64) - 1) == (1 << 64) - 1:
        return "all"
    return names_of(mask).replace(" ", "|") or "none"


def _id(value: int) -> str:
    return "-1" if value == 0xFFFFFFFF else str(value)


def _groups(value: bytes) -> str:
    return "[" + ", ".join(str(group) for (group,) in iter_unpack("<I", value)) + "]"


def _limits(value: bytes) -> str:
    soft, hard = (
        "RLIM_INFINITY" if number == kernel.INFINITY else str(number) for number in unpack("<2Q", value)
    )
    return f"{soft}:{hard}"


def _size(value: bytes) -> str:
    return f"<{len(value)} bytes>"


def _instructions(value: bytes) -> str:
    return f"<{len(value) // 8} instructions>" if value else "<the filter compiled in OPEN>"


def _kind(value: int) -> str:
    return ("directory", "file", "directory without symlinks", "directory")[value]


# (kind, argument) or ("", argument): how its value is shown
SHOWN: dict[tuple[str, str], Callable[[Any], str]] = {
    ("setns", "types"): _flags("CLONE_"),
    ("unshare", "flags"): _flags("CLONE_"),
    ("setgroups", "groups"): _groups,
    ("umask", "mask"): _octal,
    ("keyctl", "operation"): _enum("KEYCTL_"),
    ("keyring_access", "permissions"): lambda value: f"{value:08x}",
    ("personality", "persona"): _enum("PER_"),
    ("ioprio_set", "which"): _enum("IOPRIO_WHO_"),
    ("prlimit64", "resource"): _enum("RLIMIT_"),
    ("prlimit64", "limits"): _limits,
    ("sched_setattr", "attributes"): _size,
    ("sched_setaffinity", "mask"): _size,
    ("set_mempolicy", "nodes"): _size,
    ("mount_setattr", "flags"): _flags("AT_"),
    ("mount_setattr", "attributes"): _mount_attr,
    ("move_mount", "flags"): _move_flags,
    ("umount2", "flags"): _flags("MNT_ UMOUNT_"),
    ("close_range", "last"): lambda value: "~0" if value == 0xFFFFFFFF else str(value),
    ("close_range", "flags"): _flags("CLOSE_RANGE_"),
    ("write_file", "flags"): _open_flags,
    ("openat", "flags"): _open_flags,
    ("open_in_root", "flags"): _open_flags,
    ("open_tree", "flags"): _open_tree_flags,
    ("new_fs", "attributes"): _mount_attributes,
    ("target", "kind"): _kind,
    ("target", "mode"): _octal,
    ("old_mount", "flags"): _flags("MS_"),
    ("mknod", "mode"): _node_mode,
    ("mknod", "device"): _device,
    ("make_console", "flags"): lambda value: "on /dev/console" if value else "0",
    ("check_fs", "magic"): lambda value: next(
        (name for name in _all("") if name.endswith("_MAGIC") and getattr(kernel, name) == value), hex(value)
    ),
    ("bounding_set", "mask"): _capabilities,
    ("capset", "effective"): _capabilities,
    ("capset", "permitted"): _capabilities,
    ("capset", "inheritable"): _capabilities,
    ("ambient", "mask"): _capabilities,
    ("seccomp", "filter"): _instructions,
    ("seccomp", "flags"): _flags("SECCOMP_FILTER_FLAG_"),
    ("hook", "env"): lambda value: f"[{len(value)} variables]",
    ("find_executable", "env"): lambda value: f"[{len(value)} variables]",
    ("execve", "env"): lambda value: f"[{len(value)} variables]",
    ("set_home", "env"): lambda value: f"[{len(value)} variables]",
    ("", "uid"): _id,
    ("", "gid"): _id,
}


def summary(ctx: Context) -> str:
    """What the container will be, on one screen."""
    rows = [(name, line) for name, lines in _facts(ctx) for line in (lines or ["none"])]
    shown = []
    before = ""
    for name, line in rows:
        shown.append(f"{'' if name == before else name:14}{line}".rstrip())
        before = name
    return "\n".join(shown) + "\n"


def _facts(ctx: Context) -> Iterator[tuple[str, list[str]]]:
    spec, linux = ctx.spec, ctx.linux
    process = spec.get("process") or {}
    user = process.get("user") or {}
    terminal = ", on a terminal" if ctx.terminal else ""
    yield "bundle", [ctx.bundle]
    yield "program", [_cut(" ".join(process.get("args") or ["(none)"]))]
    yield "", [f"uid {user.get('uid', 0)}, gid {user.get('gid', 0)}, in {process.get('cwd', '/')}{terminal}"]
    yield "namespaces", [f"new: {' '.join(sorted(ctx.new_ns)) or 'none'}"]
    for kind, path in ctx.join_ns.items():
        yield "", [f"{kind}: {path}"]
    root = spec.get("root") or {}
    yield "root", [f"{root.get('path', '')}{', read-only' if root.get('readonly') else ''}"]
    yield "mounts", _wrapped([mount["destination"] for mount in spec.get("mounts") or ()])
    hidden = [f"{len(linux.get(name) or ())} {word}" for name, word in HIDDEN]
    yield "paths", [", ".join(hidden)]
    capabilities = (process.get("capabilities") or {}).get("bounding") or ()
    yield "capabilities", _wrapped([name.removeprefix("CAP_").lower() for name in capabilities])
    profile = linux.get("seccomp") or {}
    calls = sum(len(rule["names"]) for rule in profile.get("syscalls") or ())
    yield "seccomp", [f"{profile['defaultAction']}, rules for {calls} calls" if profile else "no filter"]
    limits = ctx.cgroup.describe(linux.get("resources") or {}) if ctx.cgroup is not None else []
    yield "limits", [f"{field.removeprefix('linux.resources.')}: {value}" for field, _, value in limits]
    hooks = spec.get("hooks") or {}
    yield (
        "hooks",
        [", ".join(f"{len(entries)} {kind}" for kind, entries in hooks.items() if entries) or "none"],
    )
    own = sum(1 for _, who, _, _, _ in steps_of(ctx) if who == "ocirt")
    yield "steps", [f"{own} by ocirt, {len(ctx.plan.ops)} by ocirt-init"]


HIDDEN = (("maskedPaths", "masked"), ("readonlyPaths", "read-only"))


def _wrapped(words: list[str]) -> list[str]:
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) < LONGEST:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines

"""The plan: kernel operations compiled from config.json, each tagged with its field.

Compiling is pure: nothing is opened and nothing changed, so `ocirt plan` and the golden tests
need no privilege. What the parent must open or do is recorded as a Handle or an Action and
carried out by `launch`; the operations are encoded into bytes for `ocirt-init`
(csrc/init/plan.h holds the same tables).
"""

from __future__ import annotations

from _struct import Struct
from _struct import error as struct_error  # type: ignore[attr-defined]

from ocirt.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Argument = "int | bytes | list[bytes] | Handle"

MAGIC = 0x31304E4C50434F
ARGS = 7
REGISTERS = 32
MAX_FDS = 1024
MAX_SIZE = 64 << 20
TRACE = 1
FIRST_FD = -2000  # how the plan calls the first fd that comes with it

AT_FDCWD = -100
NO_FD = -1

# name, argument types (plan.h explains the letters), argument names for people
KINDS: tuple[tuple[str, str, str], ...] = (
    ("setns", "di", "fd types"),
    ("unshare", "i", "flags"),
    ("setsid", "", ""),
    ("prctl", "iiiii", "option a b c d"),
    ("setresuid", "iii", "real effective saved"),
    ("setresgid", "iii", "real effective saved"),
    ("setgroups", "ip", "count groups"),
    ("umask", "i", "mask"),
    ("sethostname", "si", "name length"),
    ("setdomainname", "si", "name length"),
    ("keyctl", "is", "operation name"),
    ("personality", "i", "persona"),
    ("ioprio_set", "iii", "which who priority"),
    ("sched_setattr", "ipi", "pid attributes flags"),
    ("sched_setaffinity", "iip", "pid size mask"),
    ("set_mempolicy", "ipi", "mode nodes bits"),
    ("fchdir", "d", "fd"),
    ("chroot", "s", "path"),
    ("chdir", "s", "path"),
    ("mount_setattr", "dsib", "fd path flags attributes"),
    ("move_mount", "dsdsi", "from path to path flags"),
    ("umount2", "si", "path flags"),
    ("close", "d", "fd"),
    ("close_range", "iii", "first last flags"),
    ("fchown", "dii", "fd uid gid"),
    ("prlimit64", "iipi", "pid resource limits old"),
    ("fork", "", ""),
    ("sync", "i", "what"),
    ("write_fd", "db", "fd data"),
    ("write_file", "dsbi", "dir path data flags"),
    ("wait_start", "d", "socket"),
    ("loopback_up", "", ""),
    ("openat", "odsi", "register dir path flags"),
    ("open_in_root", "odsi", "register root path flags"),
    ("open_tree", "odsi", "register dir path flags"),
    ("new_fs", "osvi", "register type options attributes"),
    ("target", "odsii", "register root path kind mode"),
    ("target_like", "odsd", "register root path source"),
    ("old_mount", "sdsis", "source target type flags data"),
    ("copy_up", "dd", "from to"),
    ("copy_mode", "dd", "from to"),
    ("pivot_root", "d", "root"),
    ("move_root", "d", "root"),
    ("mknod", "dsiiii", "root path mode device uid gid"),
    ("symlink", "dss", "root path target"),
    ("readonly_path", "ds", "root path"),
    ("mask_path", "dsdd", "root path file_mask dir_mask"),
    ("make_console", "ddiii", "root socket rows cols flags"),
    ("check_fs", "di", "fd magic"),
    ("check_device", "dii", "fd major minor"),
    ("check_block", "dii", "fd major minor"),
    ("bounding_set", "i", "mask"),
    ("capset", "iii", "effective permitted inheritable"),
    ("ambient", "i", "mask"),
    ("set_home", "dvii", "root env index uid"),
    ("enter_cwd", "s", "path"),
    ("find_executable", "vv", "argv env"),
    ("hook", "svvbi", "path argv env state timeout_ms"),
    ("exec_follows", "", ""),
    ("seccomp", "bi", "filter flags"),
    ("execve", "vv", "argv env"),
    ("chown_stdio", "ii", "uid gid"),
    ("keyring_access", "i", "permissions"),
    ("receive_fd", "o", "register"),
    ("close_others", "id", "first socket"),
)
SIGNATURE = {row[0]: row[1] for row in KINDS}

SYNC_SCOPE, SYNC_MAPS, SYNC_HOOKS, SYNC_READY, SYNC_SOURCES = 1, 2, 3, 4, 5
SYNC_NAMES = {
    SYNC_SCOPE: "SCOPE",
    SYNC_MAPS: "MAPS",
    SYNC_HOOKS: "HOOKS",
    SYNC_READY: "READY",
    SYNC_SOURCES: "SOURCES",
}

# Phases, in order; those of the parent carry actions, those of the init carry ops.
OPEN, CGROUP, SPAWN, ENTER, CHILD, PROCESS, LAST, AFTER = (
    "OPEN",
    "CGROUP",
    "SPAWN",
    "ENTER",
    "CHILD",
    "PROCESS",
    "LAST",
    "AFTER",
)

_HEADER = Struct("<QIIIi10I")
_OP = Struct("<HHi7Q")  # struct plan_op; encode() packs kind, skip and tolerate into one word
_MASK = (1 << 64) - 1
# kind -> number, argument letters, padding to ARGS words
_CODES = {
    name: (i, letters, (0,) * (ARGS - len(letters) - letters.count("b")))
    for i, (name, letters, _) in enumerate(KINDS, 1)
}


class Handle:
    """An fd that the parent opens in the OPEN phase and sends to the init with the plan.

    opener() returns the fd; launch owns it and closes it when it has been sent. late: it exists only
    after the CGROUP actions. number is what the plan calls it, once it is among Plan.sent().
    """

    __slots__ = ("fd", "field", "late", "name", "number", "opener")

    def __init__(self, name: str, field: str, opener: Callable[[], int], late: bool) -> None:
        self.name = name
        self.field = field
        self.opener = opener
        self.late = late
        self.fd = -1
        self.number = NO_FD

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Op:
    """One operation of the init; step numbers in reports are indexes into Plan.ops."""

    __slots__ = ("args", "detail", "field", "kind", "phase", "skip", "tolerate")

    def __init__(
        self, phase: str, kind: str, field: str, args: tuple[Any, ...], detail: str, tolerate: int, skip: int
    ) -> None:
        self.phase = phase
        self.kind = kind
        self.field = field
        self.args = args
        self.detail = detail
        self.tolerate = tolerate
        self.skip = skip


class Action:
    """Something the parent does in a phase or at a sync point. call(launch) gets the Launch."""

    __slots__ = ("call", "field", "text", "when")

    def __init__(self, when: str, field: str, text: str, call: Callable[[Any], None]) -> None:
        self.when = when
        self.field = field
        self.text = text
        self.call = call


class Plan:
    """Ops for the init, actions and handles for the parent, and the flags of the clone."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.actions: list[Action] = []
        self.handles: list[Handle] = []
        self.clone_flags = 0
        self.unshare_flags = 0  # for the init, before it has the plan
        self.early = False  # is the init started before the plan is compiled?
        self.into_cgroup: Handle | None = None  # v2 directory for CLONE_INTO_CGROUP
        self.keep_fds: list[int] = []  # inherited from the caller as they are (--preserve-fds)
        self.phase = ENTER
        self.register_names: list[str] = []
        # What one mount needs is not needed by the next: the init closes a register's old fd.
        self.mount_register = self.register("mount")
        self.target_register = self.register("target")

    def register(self, name: str) -> int:
        """Reference to a new register of the init, to be filled by an op and used as an fd."""
        if len(self.register_names) == REGISTERS:
            raise SpecError("", f"the plan needs more than {REGISTERS} registers")
        self.register_names.append(name)
        return -1000 - (len(self.register_names) - 1)

    def handle(self, name: str, field: str, opener: Callable[[], int], *, late: bool = False) -> Handle:
        handle = Handle(name, field, opener, late)
        self.handles.append(handle)
        return handle

    def add(
        self, kind: str, field: str, *args: Any, detail: str = "", tolerate: int = 0, skip: int = 0
    ) -> None:
        """Append an op. tolerate is an errno that is not a failure; then skip ops are jumped over."""
        self.ops.append(Op(self.phase, kind, field, args, detail, tolerate, skip))

    def at(self, when: str, field: str, text: str, call: Callable[[Any], None]) -> None:
        """Let the parent do call at a phase (OPEN, CGROUP, AFTER) or sync point (SCOPE, ...)."""
        self.actions.append(Action(when, field, text, call))

    def actions_at(self, when: str) -> Iterator[Action]:
        return (action for action in self.actions if action.when == when)

    def sent(self) -> list[Handle]:
        """The handles that the init gets with the plan, in the order of their numbers."""
        handles = [handle for handle in self.handles if handle is not self.into_cgroup]
        if len(handles) > MAX_FDS:
            raise SpecError(
                "", f"the plan needs {len(handles)} fds, more than the {MAX_FDS} that can be sent"
            )
        for index, handle in enumerate(handles):
            handle.number = FIRST_FD - index
        return handles

    def encode(self, proc_fd: int, trace: bool = False) -> bytes:
        """The bytes that ocirt-init reads; the handles must have their numbers by now."""
        pool = _Pool(_HEADER.size + _OP.size * len(self.ops))
        values: list[int] = []
        add, string = values.append, pool.string
        for op in self.ops:
            number, letters, padding = _CODES[op.kind]
            add(number | op.skip << 16 | (op.tolerate & 0xFFFFFFFF) << 32)
            for letter, value in zip(letters, op.args, strict=True):
                if letter == "i":
                    add(value)
                elif letter == "s":
                    add(string(value))
                elif letter == "d":
                    add(value if type(value) is int else value.number)
                elif letter == "o":
                    add(-1000 - value)
                elif letter == "v":
                    add(pool.vector(value))
                else:
                    add(pool.blob(value))
                    if letter == "b":
                        add(len(value))
            values += padding
        ops = _words(values)
        size = pool.end
        if size > MAX_SIZE:
            raise SpecError("", f"the plan has {size} bytes, more than the {MAX_SIZE} that are allowed")
        flags = TRACE if trace else 0
        header = _HEADER.pack(MAGIC, size, len(self.ops), flags, proc_fd, *(0,) * 10)
        return b"".join((header, ops, *pool.parts))


def _words(values: list[int]) -> bytes:
    """64 bits of each, whether it is negative or has the highest bit set."""
    try:
        return Struct(f"<{len(values)}q").pack(*values)
    except struct_error:
        return Struct(f"<{len(values)}Q").pack(*(value & _MASK for value in values))


class _Pool:
    """Strings, blobs and vectors behind the ops; equal strings and vectors are stored once."""

    def __init__(self, start: int) -> None:
        self.end = start
        self.parts: list[bytes] = []
        self.known: dict[bytes, int] = {}

    def _put(self, data: bytes) -> int:
        offset = self.end
        self.parts.append(data)
        self.end += len(data)
        return offset

    def string(self, value: bytes | None) -> int:
        if value is None:
            return 0
        offset = self.known.get(value)
        if offset is None:
            offset = self.known[value] = self._put(value + b"\0")
        return offset

    def blob(self, value: bytes) -> int:
        if not value:
            return 0
        self._put(bytes(-self.end % 8))
        return self._put(value)

    def vector(self, values: list[bytes] | None) -> int:
        if values is None:
            return 0
        offsets = [self.string(value) for value in values]
        offsets.append(0)
        # Equal ones are one: the HOME that set_home puts into env is meant for execve's env too.
        packed = Struct(f"<{len(offsets)}Q").pack(*offsets)
        if packed not in self.known:
            self.known[packed] = self.blob(packed)
        return self.known[packed]

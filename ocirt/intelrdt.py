"""linux.intelRdt: a class of service of the resctrl file system (config-linux.md, IntelRdt).

A class is a directory: `schemata` has its shares of caches and memory bandwidth, a process joins by
`tasks`, and what it starts inherits. closID names a class that may be others' as well and stays; without
it the container has one of its own. A monitoring group below the class counts for one container.
Documentation/filesystems/resctrl.rst of the kernel has the files.
"""

from __future__ import annotations

import posix
from errno import EAGAIN, EEXIST, EIO, ENOENT, ESRCH

from ocirt import procfs
from ocirt.errors import CgroupError, SpecError, Unsupported, taken_back
from ocirt.spec.rules import RESCTRL_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ocirt.context import Context

    Saved = dict[str, Any]
    Line = tuple[str, str]  # field, line of schemata

FIELD = "linux.intelRdt"
SECTION = "config-linux.md, IntelRdt"
USUAL_ROOT = "/sys/fs/resctrl"
MOUNT = f"a mounted resctrl file system (mount -t resctrl resctrl {USUAL_ROOT})"
SCHEMATA = ("l3CacheSchema", "memBwSchema")
INFO = (  # of runc's event: its key and the schema's, directory below info, numbers, texts
    ("l3_cache", "L3", ("min_cbm_bits", "num_closids"), ("cbm_mask",)),
    ("mem_bw", "MB", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids"), ()),
)
ASKED, MADE = "asked", "made"  # how far an update came with a class, as `begun` in the state
ROUNDS = 100  # of looking for threads that are not in their new class yet
COUNTERS = (("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")), ("cmt_stats", ("llc_occupancy",)))


def find_root() -> str:
    """Where resctrl is mounted; "" if it is not."""
    return next((mount.mount_point for mount in procfs.mountinfo() if mount.fstype == "resctrl"), "")


# For the plan


def apply(ctx: Context, asked: dict[str, Any]) -> None:
    """The class of the container, made or found, and the init in it."""
    root = find_root()
    check_name(ctx.id, asked)
    group = ctx.intel_rdt = Group(root or USUAL_ROOT, ctx.id, asked)

    def check_mounted(_: Any) -> None:
        if not root:
            raise Unsupported(FIELD, MOUNT)

    ctx.plan.at("OPEN", FIELD, "find the resctrl file system", check_mounted)
    ctx.plan.at("CGROUP", FIELD, f"class {group.path}", lambda launch: group.create(launch.undo))
    join(ctx, group.save())


def check_name(container_id: str, asked: dict[str, Any]) -> None:
    """Raises SpecError: a class or monitoring group cannot have the container's id as its name."""
    reason = f"the container's id, {container_id!r}, is a name of resctrl's own"
    if container_id in RESCTRL_NAMES and not asked.get("closID"):
        raise SpecError(f"{FIELD}.closID", f"is needed: {reason}")
    # Below mon_groups the kernel has no files of its own, and refuses this one name.
    if container_id == "mon_groups" and asked.get("enableMonitoring"):
        raise SpecError(f"{FIELD}.enableMonitoring", f"does not go with it: {reason}")


def join(ctx: Context, saved: Saved) -> None:
    """The process joins by itself: first the class, or the monitoring group below it refuses it.

    A class that an update is giving to the container, or was killed over, counts once it is there and
    ours.
    """
    if (begun := saved.get("begun")) and (begun == ASKED or not posix.access(saved["path"], posix.F_OK)):
        return
    for directory in filter(None, (saved["path"], saved["monitor"])):
        tasks = ctx.plan.handle(f"{directory}/tasks", FIELD, _opener(f"{directory}/tasks"), late=True)
        ctx.plan.add("write_fd", FIELD, tasks, b"0", detail=f"{directory}/tasks")


def _opener(path: str) -> Callable[[], int]:
    def open_tasks() -> int:
        try:
            return posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
        except OSError as error:
            raise CgroupError(FIELD, f"open {path}", "", error.errno or EIO) from None

    return open_tasks


class Group:
    """The class of a new container. path: its directory; monitor: that of the monitoring group, or "";
    to_remove: what goes with the container, or "".
    """

    def __init__(self, root: str, container_id: str, asked: dict[str, Any]) -> None:
        name = asked.get("closID") or ""
        self.root = root
        self.is_named = bool(name)
        self.path = root if name == "/" else f"{root}/{name or container_id}"
        self.monitor = f"{self.path}/mon_groups/{container_id}" if asked.get("enableMonitoring") else ""
        self.lines = schema_lines(asked)
        # As far as can be seen before it is made: a runtime that is killed leaves this in the state.
        self._own(not self.is_named and not posix.access(self.path, posix.F_OK))

    def _own(self, is_ours: bool) -> None:
        self.to_remove = self.path if is_ours else self.monitor

    def save(self) -> Saved:
        return {"root": self.root, "path": self.path, "monitor": self.monitor, "remove": self.to_remove}

    def create(self, undo: Callable[[Callable[[], None]], None]) -> None:
        """Make the class or check the one that is there, and write the schemata. Raises CgroupError,
        and SpecError when a class that others may use has other schemata.
        """
        is_there = posix.access(self.path, posix.F_OK)
        if self.is_named and not self.lines and not is_there:
            hint = "a class without schemata has to be there before"
            raise CgroupError(f"{FIELD}.closID", self.path, "", ENOENT, hint)
        is_new = not is_there and self._make(self.path, undo)
        self._own(is_new and not self.is_named)
        if self.is_named and not is_new:
            for field, line in self.lines:
                if field.rpartition(".")[2] in SCHEMATA:
                    self._compare(field, line)
        for field, line in self.lines:
            write_schema(self.root, self.path, field, line)
        if self.monitor and not self._make(self.monitor, undo):
            raise CgroupError(f"{FIELD}.enableMonitoring", f"mkdir {self.monitor}", "", EEXIST)

    def _make(self, directory: str, undo: Callable[[Callable[[], None]], None]) -> bool:
        """mkdir; False when it is there."""
        try:
            posix.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        except OSError as error:
            raise _refused(self.root, FIELD, f"mkdir {directory}", "", error) from None
        undo(lambda: remove(directory, only_unused=True))
        return True

    def _compare(self, field: str, line: str) -> None:
        name, wanted = parse(line)
        in_force = dict(parse(each) for each in _lines(self.path)).get(name, {})
        step = int(_read(f"{self.root}/info/MB/bandwidth_gran") or 1) if name == "MB" else 1
        for domain, value in wanted.items():
            # The kernel rounds percents of memory bandwidth up to what the processor can do.
            if in_force.get(domain) not in (value, -(-value // step) * step):
                now = next((each for each in _lines(self.path) if parse(each)[0] == name), f"no {name}")
                raise SpecError(field, f"{line!r} is not what the class {self.path} has: {now!r}", SECTION)


def schema_lines(asked: dict[str, Any]) -> list[Line]:
    """(field, line) in the order of writing: what `schemata` says counts last."""
    lines = [(f"{FIELD}.{name}", asked[name]) for name in SCHEMATA if asked.get(name)]
    return lines + [(f"{FIELD}.schemata[{i}]", line) for i, line in enumerate(asked.get("schemata") or ())]


def parse(line: str) -> tuple[str, dict[str, int]]:
    """ "L3:0=7f0;1=1f" as ("L3", {"0": 0x7f0, "1": 0x1f}); bandwidths (MB) are decimal."""
    name, _, rest = line.strip().partition(":")
    base = 10 if name.strip() == "MB" else 16
    values = {}
    for word in filter(None, rest.strip().split(";")):
        domain, _, text = word.partition("=")
        try:
            values[domain.strip().lstrip("0") or "0"] = int(text, base)
        except ValueError:
            values[domain.strip()] = -1  # the kernel has the last word
    return name.strip(), values


def write_schema(root: str, path: str, field: str, line: str) -> None:
    """One line for the schemata of a class. Raises CgroupError with what the kernel says of it."""
    file = f"{path}/schemata"
    try:
        fd = posix.open(file, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, f"{line}\n".encode())  # without a newline it is refused
        finally:
            posix.close(fd)
    except OSError as error:
        raise _refused(root, field, file, line, error) from None


def _refused(root: str, field: str, file: str, value: str, error: OSError) -> CgroupError:
    status = _read(f"{root}/info/last_cmd_status")
    return CgroupError(field, file, value, error.errno or EIO, "" if status == "ok" else status)


# A container that is there


def update(saved: Saved, asked: dict[str, Any]) -> Callable[[], None]:
    """Other schemata (l3CacheSchema, memBwSchema); what writes the former ones again. Raises CgroupError."""
    former = {parse(line)[0]: line.strip() for line in _lines(saved["path"])}
    done: list[Line] = []

    def back() -> None:
        for field, line in reversed(done):
            if (before := former.get(parse(line)[0])) is not None:
                write_schema(saved["root"], saved["path"], field, before)

    for field, line in schema_lines(asked):
        try:
            write_schema(saved["root"], saved["path"], field, line)
        except CgroupError as error:
            taken_back(error, back)
            raise
        done.append((field, line))
    return back


def new_class(container_id: str, asked: dict[str, Any]) -> Group:
    """The class that an update gives to a container that was made without one; make() makes it.

    Raises Unsupported, SpecError, and CgroupError if there is something of this name.
    """
    root = find_root()
    if not root:
        raise Unsupported(FIELD, MOUNT)
    check_name(container_id, asked)
    group = Group(root, container_id, asked)
    if not group.to_remove:
        raise CgroupError(FIELD, f"mkdir {group.path}", "", EEXIST)
    return group


def make(group: Group) -> None:
    """The directory of new_class(): then it is ours. Raises CgroupError, also if somebody was faster."""
    if not group._make(group.path, lambda _: None):
        raise CgroupError(FIELD, f"mkdir {group.path}", "", EEXIST)


def fill(group: Group, pids: Callable[[], list[int]]) -> None:
    """Write the schemata and move all threads of the processes that pids lists into the class.

    A child begins in the class of its parent, so it is over when a round finds nobody outside; after
    ROUNDS rounds a container that starts processes faster than that is refused. Raises CgroupError,
    and Unsupported where the processes cannot be told from others.
    """
    for field, line in group.lines:
        write_schema(group.root, group.path, field, line)
    inside: set[int] = set()
    for _ in range(ROUNDS):
        try:
            threads = {thread for pid in pids() for thread in procfs.threads(pid)}
        except Unsupported as error:
            raise Unsupported(FIELD, error.needs) from None
        before, inside = inside, set(map(int, _read(f"{group.path}/tasks").split()))
        outside = threads - before - inside  # a thread of before may have ended since it was listed
        if not outside:
            return
        for thread in outside:
            _move(group, thread)
    raise CgroupError(FIELD, f"{group.path}/tasks", "", EAGAIN, "the container starts processes too fast")


def _move(group: Group, thread: int) -> None:
    file = f"{group.path}/tasks"
    try:
        fd = posix.open(file, posix.O_WRONLY | posix.O_APPEND | posix.O_CLOEXEC)
        try:
            posix.write(fd, b"%d\n" % thread)
        finally:
            posix.close(fd)
    except OSError as error:
        if error.errno != ESRCH:  # it has ended
            raise _refused(group.root, FIELD, file, str(thread), error) from None


def remove(directory: str, *, only_unused: bool = False) -> None:
    """rmdir of a class or monitoring group; only_unused: unless somebody is in it.

    Those who are fall back to the default class; the monitoring groups below go along.
    """
    if not directory or (only_unused and _read(f"{directory}/tasks")):
        return
    try:
        posix.rmdir(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CgroupError(FIELD, f"rmdir {directory}", "", error.errno or EIO) from None


def stats(saved: Saved) -> dict[str, Any]:
    """intel_rdt of a stats event, under runc's keys. Without a monitoring group the counters are those
    of all who are in the class.
    """
    root, path = saved["root"], saved["path"]
    found: dict[str, Any] = {}
    for key, name, numbers, texts in INFO:
        info = f"{root}/info/{name}"
        if not posix.access(info, posix.F_OK):
            continue
        words = {word: _read(f"{info}/{word}") for word in (*texts, *numbers)}
        found[f"{key}_info"] = {
            word: int(text) if word in numbers else text for word, text in words.items() if text
        }
        for suffix, directory in (("schema_root", root), ("schema", path)):
            lines = [line.strip() for line in _lines(directory) if parse(line)[0] == name]
            if lines:
                found[f"{key}_{suffix}"] = lines[0]
    if schemata := [line.strip() for line in _lines(path)]:
        found["schemata"] = schemata
    if posix.access(f"{root}/info/L3_MON", posix.F_OK):
        for key, names in COUNTERS:
            found[key] = list(_counters(saved["monitor"] or path, names))
    return found


def _counters(group: str, names: tuple[str, ...]) -> Iterator[dict[str, int]]:
    """For each L3 cache; a counter that is not to be had now says so by a word, and is left out."""
    try:
        caches = sorted(posix.listdir(f"{group}/mon_data"))
    except FileNotFoundError:
        return
    for cache in caches:
        texts = {name: _read(f"{group}/mon_data/{cache}/{name}") for name in names}
        if numbers := {name: int(text) for name, text in texts.items() if text.isdigit()}:
            yield numbers


def _lines(path: str) -> list[str]:
    return _read(f"{path}/schemata").splitlines()


def _read(path: str) -> str:
    """A file of resctrl without the blanks around it; "" when there is none."""
    try:
        return procfs.read(path).decode("utf-8", "replace").strip()
    except OSError as error:
        if error.errno in (ENOENT, EIO):
            return ""
        raise

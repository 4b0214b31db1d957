"""What the cgroup managers share: limits from the table, pids, signals, removal."""

from __future__ import annotations

import posix
import time
from errno import EACCES, EBUSY, EEXIST, EINVAL, ENODEV, ENOENT, ENOTEMPTY, EPERM, EROFS, ESRCH

from ocirt import kernel
from ocirt.cgroups.files import read_text, write_file
from ocirt.cgroups.freezer import freezer_of
from ocirt.errors import CgroupError, SpecError, Unsupported, taken_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.cgroups.resources import Write

    Undo = Callable[[Callable[[], None]], None]
    Opener = Callable[[], int]

FIELD = "linux.resources"
PATH_FIELD = "linux.cgroupsPath"
REMOVE_WAIT = 3.0  # seconds for killed processes to leave a group
FILES_TOLD = 3  # of a process that keeps a group
PIDFDS = 256  # held at once; a process may have 1024 fds
DENIED = (EACCES, EPERM, EROFS)


class Manager:
    """Base of the managers. paths: controller to absolute directory; "" is cgroup v2."""

    version = 1
    driver = "cgroupfs"
    needs_pid = False  # the init has to be running before it can be put into its group
    init_pid = 0  # exec: the container's first process

    def __init__(self, paths: dict[str, str]) -> None:
        self.paths = paths

    # For the plan

    def create(self, undo: Undo) -> None:
        """Make the groups (systemd: see that they can be made); undo gets what takes them away."""

    def join_fds(self) -> list[tuple[str, Opener]]:
        """(name, opener) of files into which the init writes "0" to join."""
        return []

    def cgroup_dir_opener(self) -> Opener | None:
        """Opener of the v2 directory for CLONE_INTO_CGROUP."""
        return None

    def attach(self, pid: int) -> None:
        """Put a process into the groups; only where the init cannot join by itself."""

    def hand_over(self, uid: int) -> None:
        """Let a user of the host make groups below (config-linux.md, Cgroup ownership); not on v1, where
        that is not safe.
        """

    def save(self) -> dict[str, Any]:
        return {"driver": self.driver, "version": self.version, "paths": self.paths}

    # Limits

    def directory(self, controller: str) -> str | None:
        """The directory with the files of a controller."""
        return self.paths.get(controller)

    def lacks(self, controller: str) -> str:
        """Why there is no directory for a controller."""
        return f"no cgroup hierarchy with the {controller} controller is mounted"

    def apply(self, resources: dict[str, Any], field: str = FIELD) -> None:
        """Write the limits of linux.resources but for devices. Raises CgroupError, Unsupported."""
        from ocirt.cgroups.resources import writes

        self._write_all(writes(resources, self.version, field))

    def update(
        self, old: dict[str, Any], new: dict[str, Any], asked: dict[str, Any], *, check: bool = False
    ) -> None:
        """From the limits old to new, which is old with what asked names.

        check: not below the memory in use. Raises as apply does; then the old limits are in force.
        """
        from ocirt.cgroups.update import changed, roll_back

        self.check_use(new, asked, check)
        undo: list[tuple[str, str, str]] = []
        try:
            self._write_all(changed(old, new, asked, self.version), undo)
            self.update_devices(old.get("devices"), new.get("devices"))
        except BaseException as error:
            failed = roll_back(undo)
            if failed and isinstance(error, CgroupError):
                error.hint = f"{error.hint}; " * bool(error.hint) + f"{failed[0]} could not be set back"
            raise

    def check_use(self, new: dict[str, Any], asked: dict[str, Any], check: bool) -> None:
        memory = new.get("memory") or {}
        if (asked.get("memory") or {}).get("limit") and (check or memory.get("checkBeforeUpdate")):
            self.refuse_below_use(memory["limit"])

    def refuse_below_use(self, limit: int, field: str = FIELD) -> None:
        """Raise CgroupError for a memory limit that is below what is in use now."""
        directory = self.directory("memory")
        now, file = (
            ("memory.usage_in_bytes", "memory.limit_in_bytes")
            if self.version == 1
            else ("memory.current", "memory.max")
        )
        used = read_text(f"{directory}/{now}") if directory else ""
        if used and 0 < limit < int(used):
            hint = f"in use now: {used} bytes"
            raise CgroupError(f"{field}.memory.limit", f"{directory}/{file}", str(limit), EBUSY, hint)

    def _write_all(self, rows: list[Write], undo: list[tuple[str, str, str]] | None = None) -> None:
        later = []
        for row in rows:
            try:
                self._write(row, undo)
            except CgroupError as error:
                if error.errno != EINVAL:
                    raise
                # The kernel checks pairs: limit against memsw, quota against period and burst.
                # Whichever is first, the other order must work if any does.
                later.append(row)
        for row in later:
            self._write(row, undo)

    def describe(self, resources: dict[str, Any], field: str = FIELD) -> list[tuple[str, str, str]]:
        """(field, file, value) that apply() would write. Nothing is opened."""
        from ocirt.cgroups.resources import writes

        rows = []
        for where, file, value in writes(resources, self.version, field):
            name = file.lstrip("?")
            directory = self.directory(name.partition(".")[0])
            text = value if isinstance(value, str) else value[-1]
            rows.append((where, f"{directory or '(not mounted)'}/{name}", text))
        return rows

    def _write(self, write: Write, undo: list[tuple[str, str, str]] | None = None) -> None:
        """undo gets what is needed to take it back: path, what was there, what is written."""
        from ocirt.cgroups.resources import is_harmless

        field, marked, value = write
        names = marked.lstrip("?")
        directory = self.directory(names.partition(".")[0])
        if directory is None:
            if not is_harmless(marked, value) and value not in ("-1", "max"):
                raise Unsupported(field, self.lacks(names.partition(".")[0]))
            return
        texts = (value,) if isinstance(value, str) else value
        for name, text in zip(names.split("|"), texts, strict=False):
            path = f"{directory}/{name}"
            try:
                if undo is not None:
                    remember(undo, path, text)
                write_file(path, text)
                return
            except FileNotFoundError:
                continue
            except OSError as error:
                raise _refused(field, path, text, error.errno or 0) from None
        if not is_harmless(marked, value):
            raise Unsupported(field, self.missing_file(directory, names))

    def missing_file(self, directory: str, names: str) -> str:
        return f"the kernel has no {names.replace('|', ' or ')} in {directory}"

    def apply_devices(self, entries: list[dict[str, Any]] | None) -> None:
        """Put the rules of linux.resources.devices in force."""

    def update_devices(self, old: list[dict[str, Any]] | None, new: list[dict[str, Any]] | None) -> None:
        """Other rules in place of the old ones, which come back when the new ones are refused."""
        from ocirt.cgroups.devices import rules

        if rules(old) == rules(new):
            return
        # v1 denies everything before it allows anything: nobody shall see that.
        stopped = self.version == 1 and not self.is_frozen() and self.freeze()
        try:
            self.replace_devices(new)
        except BaseException as error:
            taken_back(error, lambda: self.replace_devices(old))
            raise
        finally:
            if stopped:
                self.thaw()

    def replace_devices(self, entries: list[dict[str, Any]] | None) -> None:
        self.apply_devices(entries)

    # Processes

    def groups(self) -> list[str]:
        """All directories, each once."""
        return list(dict.fromkeys(self.paths.values()))

    def _pids_directory(self) -> str | None:
        return next(iter(self.paths.values()), None)

    def pids(self, all: bool = True) -> list[int]:  # noqa: A002 - runc's word
        """Processes in the group, with all also those in groups that the container made below."""
        directory = self._pids_directory()
        return sorted(set(pids_below(directory, all))) if directory else []

    def freeze(self) -> bool:
        """Stop all processes; False if that is not possible here."""
        freezer = freezer_of(self.paths)
        return freezer is not None and freezer.freeze()

    def thaw(self) -> None:
        """Let the processes go on."""
        freezer = freezer_of(self.paths)
        if freezer is not None:
            freezer.thaw()

    def is_frozen(self) -> bool:
        freezer = freezer_of(self.paths)
        return freezer is not None and freezer.is_frozen()

    def kill_all(self, signal: int) -> None:
        """Send a signal to every process; frozen meanwhile, so that none can fork away."""
        was_frozen = self.is_frozen()
        frozen = was_frozen or self.freeze()
        try:
            for _ in range(1 if frozen else 16):
                pids = self.pids()
                for start in range(0, len(pids), PIDFDS):
                    self._signal(pids[start : start + PIDFDS], signal)
                if not pids or signal != kernel.SIGKILL:
                    break
        finally:
            if frozen and (not was_frozen or signal == kernel.SIGKILL):
                self.thaw()

    def _signal(self, pids: list[int], signal: int) -> None:
        """By pidfds that were checked: a pid of the list may be a stranger's by now."""
        held = {}
        try:
            for pid in pids:
                try:
                    held[pid] = kernel.pidfd_open(pid)
                except OSError as error:
                    if error.errno not in (ESRCH, EINVAL):  # ended; a thread in a threaded group
                        raise
            inside = set(self.pids())
            for pid, pidfd in held.items():
                if pid not in inside:
                    continue
                try:
                    kernel.pidfd_send_signal(pidfd, signal)
                except OSError as error:
                    if error.errno not in (ESRCH, EPERM):  # one that we may not reach saves no other
                        raise
        finally:
            for pidfd in held.values():
                posix.close(pidfd)

    def oom_kills(self) -> int:
        """How many processes of the group were killed for want of memory."""
        return 0

    # The end

    def destroy(self) -> None:
        """Remove the groups and what the container made below them.

        Waits REMOVE_WAIT at most; then raises CgroupError that names who is still inside.
        """
        left = self.groups()
        deadline = 0.0
        pause = 0.0005
        while True:
            left = [directory for directory in left if not remove_group(directory)]
            if not left:
                return
            now = time.monotonic()
            deadline = deadline or now + REMOVE_WAIT
            if now > deadline:
                raise CgroupError(PATH_FIELD, f"rmdir {left[0]}", "", EBUSY, who_is_inside(left[0]))
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def remove_empty(self) -> None:
        """Remove only what nobody uses: the groups may be another's."""
        for directory in self.groups():
            try:
                posix.rmdir(directory)
            except OSError as error:
                if error.errno not in (ENOENT, EBUSY, ENOTEMPTY):
                    raise


class NoCgroup(Manager):
    """The container stays in the groups that the runtime is in; why says why."""

    driver = "none"
    version = 2

    def __init__(self, why: str) -> None:
        super().__init__({})
        self.why = why

    def lacks(self, controller: str) -> str:
        return self.why

    def save(self) -> dict[str, Any]:
        return {"driver": "none", "version": 2, "paths": {}, "reason": self.why}

    def destroy(self) -> None:
        pass


# Files


def remember(undo: list[tuple[str, str, str]], path: str, text: str) -> None:
    """Note what a file holds before text is written to it."""
    try:
        before = read_text(path)
    except OSError:
        return  # one that can only be written: an order, not a value
    if before:
        undo.append((path, before, text))


def directory_opener(path: str) -> Opener:
    return lambda: posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)


def make_group(directory: str, top: str, undo: Undo) -> list[str]:
    """mkdir -p below the mount point top; what was made, the outermost first.

    An empty list says that the group was there. Raises CgroupError.
    """
    try:
        posix.mkdir(directory, 0o755)
    except OSError as error:
        if error.errno == EEXIST:
            return []
        parent = directory.rpartition("/")[0]
        if error.errno != ENOENT or len(parent) < len(top):
            hint = "not delegated to this user" if error.errno in DENIED else ""
            raise CgroupError(PATH_FIELD, f"mkdir {directory}", "", error.errno or 0, hint) from None
        made = make_group(parent, top, undo)
        return made + make_group(directory, top, undo)
    undo(lambda: remove_if_empty(directory))
    return [directory]


def remove_if_empty(directory: str) -> None:
    """Take back a group that was made; one that others use by now stays.

    The processes in it were killed just before, so they get a moment to be gone.
    """
    for pause in (0.001, 0.004, 0.016, 0.064):
        try:
            posix.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (EBUSY, ENOTEMPTY):
                raise
            time.sleep(pause)
        else:
            return


def remove_group(directory: str) -> bool:
    """rmdir, of what the container made below as well; False while somebody is inside."""
    try:
        posix.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (EBUSY, ENOTEMPTY):
            raise CgroupError(PATH_FIELD, f"rmdir {directory}", "", error.errno or 0) from None
    else:
        return True
    empty = True
    for name in subgroups(directory):
        empty = remove_group(f"{directory}/{name}") and empty
    if empty:
        try:
            posix.rmdir(directory)
        except OSError as error:
            return error.errno == ENOENT
    return empty


def subgroups(directory: str) -> list[str]:
    """Names of the directories in a group; the link count says whether a look is worth it."""
    try:
        if posix.stat(directory).st_nlink == 2:
            return []
        return [entry.name for entry in posix.scandir(directory) if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def pids_below(directory: str, deep: bool = True) -> list[int]:
    """cgroup.procs of a group, and of those below. A threaded group's are told by its parent."""
    try:
        found = [int(line) for line in read_text(f"{directory}/cgroup.procs").splitlines()]
    except OSError as error:
        if error.errno not in (ENODEV, 95):  # EOPNOTSUPP: threaded
            raise
        found = []
    for name in subgroups(directory) if deep else ():
        found += pids_below(f"{directory}/{name}")
    return found


def check_empty(directory: str) -> None:
    """Raise CgroupError when somebody is in a group that was there before."""
    pids = pids_below(directory)
    if pids:
        text = f"container's cgroup is not empty: {len(pids)} process(es) found"
        raise CgroupError(PATH_FIELD, directory, "", EBUSY, text)


def frozen_error(directory: str) -> CgroupError:
    return CgroupError(PATH_FIELD, directory, "", EBUSY, "container's cgroup unexpectedly frozen")


def who_is_inside(directory: str) -> str:
    """The processes that keep a group from being removed, with what they wait for."""
    words = describe_processes(pids_below(directory))
    return f"still inside: {words}" if words else "no process is inside; is it being used elsewhere?"


def describe_processes(pids: list[int]) -> str:
    """ "pid 7 (D, in nfs_wait): cp in /mnt with /mnt/a open" for each of the first: what it is, and holds.

    Nothing here can hang: /proc/PID/cmdline would wait for a process that waits with its memory locked.
    """
    from ocirt import procfs

    words = []
    for pid in pids[:8]:
        state = procfs.process_state(pid)
        if not state:
            words.append(f"pid {pid} (gone)")
            continue
        where = procfs.wchan(pid)
        text = f"pid {pid} ({state}, in {where})" if where else f"pid {pid} ({state})"
        words.append(f"{text}: {procfs.command(pid)}")
        directory = procfs.working_directory(pid)
        if directory:
            words[-1] += f" in {directory}"
        if files := procfs.open_files(pid, FILES_TOLD):
            words[-1] += f" with {' and '.join(files)} open"
    if len(pids) > 8:
        words.append(f"{len(pids) - 8} more")
    return ", ".join(words)


def _refused(field: str, path: str, text: str, errno: int) -> CgroupError:
    """Why a cgroup file refused a value, with what the kernel holds against it."""
    directory, _, name = path.rpartition("/")
    hint = ""
    if name == "memory.limit_in_bytes" and errno == EBUSY:
        hint = f"in use now: {read_text(f'{directory}/memory.usage_in_bytes')} bytes"
    elif name == "memory.limit_in_bytes" and errno == EINVAL:
        above = read_text(f"{directory}/memory.memsw.limit_in_bytes")
        hint = f"memory.swap, the limit of memory and swap together, is {above}" if above else ""
    elif name in ("cpuset.cpus", "cpuset.mems"):
        parent = directory.rpartition("/")[0]
        above = read_text(f"{parent}/{name}") or read_text(f"{parent}/{name}.effective")
        hint = f"its parent has {above}"
    elif name == "cpu.rt_runtime_us" and errno == EINVAL:
        hint = "the groups above must have realtime time to give"
    elif errno in DENIED:
        hint = "not delegated to this user" if posix.geteuid() else ""
    return CgroupError(field, path, text, errno, hint)


def resolve(path: str, container_id: str, own: str) -> str:
    """Directory of the container below a mount point, from linux.cgroupsPath.

    An absolute path counts from the mount point, any other from own: the directory that relative
    paths and containers without a path are put into.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise SpecError(PATH_FIELD, f"{path!r} leaves its place by '..'", "config-linux.md, Cgroups Path")
    inner = "/".join(parts) or container_id
    return f"/{inner}" if path.startswith("/") and parts else f"{own.rstrip('/')}/{inner}"

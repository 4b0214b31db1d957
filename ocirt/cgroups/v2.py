"""cgroup v2: one group; the init is born in it (CLONE_INTO_CGROUP)."""

from __future__ import annotations

import posix
from errno import EBUSY

from ocirt import kernel, procfs
from ocirt.cgroups.files import read_key, read_text, write_file
from ocirt.cgroups.manager import (
    DENIED,
    FIELD,
    PATH_FIELD,
    Manager,
    NoCgroup,
    check_empty,
    frozen_error,
    make_group,
    resolve,
)
from ocirt.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cgroups.manager import Opener, Undo
    from ocirt.host import Host

TO_HAND_OVER = "/sys/kernel/cgroup/delegate"
THREADED = frozenset(("cpu", "cpuset", "perf_event", "pids"))  # controllers that take threads
DELEGATE = (
    "start it below a delegated cgroup (systemd-run --user --scope -p Delegate=yes), or use --systemd-cgroup"
)


def choose(host: Host, path: str, container_id: str, rootless: bool) -> Manager:
    """Where a new container goes; nothing is made yet.

    Relative paths count from the parent of our own group: our own has processes in it, so its
    controllers cannot be handed on (no internal processes).
    """
    mount = host.unified_mount
    above = host.own_cgroups[""].rpartition("/")[0]
    directory = mount + resolve(path, container_id, above)
    if rootless and not path:
        parent = directory.rpartition("/")[0]
        if not posix.access(parent, posix.W_OK):
            return NoCgroup(f"user {host.euid} may not make a cgroup in {parent}; {DELEGATE}")
    manager = V2Manager(directory, mount)
    manager.rootless = rootless
    return manager


class V2Manager(Manager):
    version = 2

    def __init__(self, directory: str, mount: str) -> None:
        super().__init__({"": directory})
        self.path = directory
        self.mount = mount
        self.rootless = False

    def save(self) -> dict[str, Any]:
        return {**super().save(), "mount": self.mount}

    def create(self, undo: Undo) -> None:
        made = make_group(self.path, self.mount, undo)
        if not made and read_key(f"{self.path}/cgroup.events", "populated"):
            check_empty(self.path)
        if self.is_frozen():
            raise frozen_error(self.path)
        self.enable_controllers()
        self._check_type()

    def enable_controllers(self) -> None:
        """Hand every controller down from the mount point; what is refused is told by apply().

        Most often all is enabled already, which two reads show.
        """
        wanted = read_text(f"{self.mount}/cgroup.controllers")
        if read_text(f"{self.path}/cgroup.controllers") == wanted:
            return
        group = self.mount
        for part in self.path[len(self.mount) + 1 :].split("/"):
            hand_down(group)
            group = f"{group}/{part}"

    def _check_type(self) -> None:
        """A group below one with processes or threads cannot have processes of its own."""
        kind = read_text(f"{self.path}/cgroup.type")
        if kind in ("", "domain"):
            return
        parent = self.path.rpartition("/")[0]
        why = f"it is {kind}: {parent} has processes or is threaded, so nothing below it can be a container's"
        raise CgroupError(PATH_FIELD, self.path, "", EBUSY, why)

    def directory(self, controller: str) -> str | None:
        return self.path

    def missing_file(self, directory: str, names: str) -> str:
        controller = names.partition(".")[0]
        if controller in read_text(f"{directory}/cgroup.controllers").split():
            return super().missing_file(directory, names)
        group = self.mount
        for part in directory[len(self.mount) + 1 :].split("/"):
            if controller not in read_text(f"{group}/cgroup.controllers").split():
                break
            if controller not in read_text(f"{group}/cgroup.subtree_control").split():
                inside = (
                    "has processes of its own"
                    if read_text(f"{group}/cgroup.procs")
                    else "does not hand it on"
                )
                hint = f"; {DELEGATE}" if self.rootless else ""
                return f"the {controller} controller, which {group} {inside}{hint}"
            group = f"{group}/{part}"
        return f"the {controller} controller, which {group} does not have"

    def apply(self, resources: dict[str, Any], field: str = FIELD) -> None:
        memory = resources.get("memory") or {}
        if memory.get("checkBeforeUpdate"):
            # v2 would reclaim and then kill; v1's kernel refuses such a limit by itself.
            self.refuse_below_use(memory.get("limit") or 0, field)
        super().apply(resources, field)

    def apply_devices(self, entries: list[dict[str, Any]] | None) -> None:
        from ocirt.cgroups import devices

        if not devices.allows_everything(devices.rules(entries)):
            self.replace_devices(entries)

    def replace_devices(self, entries: list[dict[str, Any]] | None) -> None:
        """Also by rules that allow everything: there is an older program that does not."""
        from ocirt.cgroups import devices

        wanted = devices.rules(entries)
        try:
            devices.attach(self.path, wanted)
        except OSError as error:
            if self.rootless and error.errno in DENIED:
                return  # an ordinary user cannot make the nodes either
            hint = getattr(error, "log", "")
            raise CgroupError(
                devices.FIELD, f"bpf program on {self.path}", "", error.errno or 0, hint
            ) from None

    def cgroup_dir_opener(self) -> Opener | None:
        return self._open_to_join

    def _open_to_join(self) -> int:
        flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC
        return posix.open(self.joinable(), flags)

    def joinable(self) -> str:
        """The group, or where the init has gone: a systemd or dockerd inside moves itself into a
        group below, and hands controllers on, after which nobody can join the group above. Or the
        group was removed while the container runs.
        """
        if not self.init_pid:
            return self.path
        if posix.access(self.path, posix.F_OK) and not read_text(f"{self.path}/cgroup.subtree_control"):
            return self.path
        return self.mount + procfs.cgroup_paths(self.init_pid)[""]

    def attach(self, pid: int) -> None:
        write_file(f"{self.path}/cgroup.procs", str(pid))

    def hand_over(self, uid: int) -> None:
        """The group and the files that the kernel says are safe: not those with its limits."""
        names = read_text(TO_HAND_OVER) or "cgroup.procs\ncgroup.subtree_control\ncgroup.threads"
        for path in (self.path, *(f"{self.path}/{name}" for name in names.split())):
            try:
                posix.chown(path, uid, -1)
            except FileNotFoundError:
                continue  # a file of a controller that is not enabled
            except OSError as error:
                if self.rootless and error.errno in DENIED:
                    return
                raise CgroupError(PATH_FIELD, f"chown {path}", "", error.errno or 0) from None

    def kill_all(self, signal: int) -> None:
        if signal == kernel.SIGKILL:
            try:
                write_file(f"{self.path}/cgroup.kill", "1")  # Linux 5.14; reaches frozen ones as well
            except FileNotFoundError:
                return
            if self.is_frozen():
                self.thaw()
        else:
            super().kill_all(signal)

    def oom_kills(self) -> int:
        return read_key(f"{self.path}/memory.events", "oom_kill")


def hand_down(group: str) -> None:
    """Enable all of a group's controllers for its children."""
    available = set(read_text(f"{group}/cgroup.controllers").split())
    missing = sorted(available - set(read_text(f"{group}/cgroup.subtree_control").split()))
    if not missing:
        return
    try:
        write_file(f"{group}/cgroup.subtree_control", " ".join(f"+{name}" for name in missing))
    except OSError:
        # All or nothing; one by one gives what can be had (cpu is refused while realtime tasks run).
        for name in missing:
            try:
                write_file(f"{group}/cgroup.subtree_control", f"+{name}")
            except OSError:
                continue

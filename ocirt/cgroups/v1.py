"""cgroup v1 by its file systems: one group in every hierarchy, also in named ones and in the
cgroup2 that hybrid hosts mount next to them.

The init joins by writing "0" into `tasks` itself: a single thread moves without the lock that
`cgroup.procs` takes, which costs 7 to 15 ms on an idle machine.
"""

from __future__ import annotations

import posix
from errno import EINVAL, ENOENT

from ocirt import procfs
from ocirt.cgroups.files import read_key, read_text, write_file
from ocirt.cgroups.manager import (
    DENIED,
    FIELD,
    Manager,
    check_empty,
    directory_opener,
    frozen_error,
    make_group,
    resolve,
)
from ocirt.errors import CgroupError, Unsupported, taken_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cgroups.manager import Opener, Undo
    from ocirt.cgroups.v2 import V2Manager
    from ocirt.host import Host

TO_JOIN = posix.O_WRONLY | posix.O_CLOEXEC
CPUSET_FILES = ("cpuset.cpus", "cpuset.mems")
SECTIONS = (  # of linux.resources, with their controllers on v1 and v2
    ("memory", "memory", "memory"),
    ("cpu", "cpu", "cpu"),
    ("pids", "pids", "pids"),
    ("blockIO", "blkio", "io"),
    ("hugepageLimits", "hugetlb", "hugetlb"),
    ("rdma", "rdma", "rdma"),
)


def choose(host: Host, path: str, container_id: str, rootless: bool) -> V1Manager:
    """Where a new container goes in each hierarchy; nothing is made yet.

    Without privilege and without a path of its own, hierarchies that the user may not write to
    are left out; a limit that would need one of them is then refused by name.
    """
    paths = {}
    tops = {}
    unified = {"": host.unified_mount} if host.unified_mount else {}
    for key, mount in (host.v1_hierarchies | unified).items():
        inner = resolve(path, container_id, host.own_cgroups[key])
        if rootless and not path and not posix.access(mount + inner.rpartition("/")[0], posix.W_OK):
            continue
        tops[mount + inner] = mount
        for controller in key.split(","):
            paths[controller] = mount + inner
    manager = V1Manager(paths, tops)
    manager.rootless = rootless
    return manager


class V1Manager(Manager):
    """Groups on v1; paths[""] is the group in a hybrid host's cgroup2, which has no limits."""

    version = 1

    def __init__(self, paths: dict[str, str], tops: dict[str, str] | None = None) -> None:
        super().__init__(paths)
        self.tops = tops or {}  # directory to mount point, for create()
        self.unified_mount = self.tops.get(paths.get("", ""), "")
        self.rootless = False

    def save(self) -> dict[str, Any]:
        return {**super().save(), "mount": self.unified_mount}

    def create(self, undo: Undo) -> None:
        for directory, top in self.tops.items():
            made = make_group(directory, top, undo)
            if not made:
                check_empty(directory)
            if directory == self.paths.get("cpuset"):
                for group in made[:-1]:
                    for name in CPUSET_FILES:
                        _inherit(group, name)
        # A frozen group, or one below a frozen group, would stop the init for good.
        if self.is_frozen():
            raise frozen_error(self.paths.get("freezer") or self.paths[""])

    def lacks(self, controller: str) -> str:
        if self.rootless:
            return f"this user may not make a group in the {controller} hierarchy of cgroup v1"
        return super().lacks(controller)

    def apply(self, resources: dict[str, Any], field: str = FIELD) -> None:
        unified = self._for_unified(resources)
        super().apply(_but(resources, unified), field)
        if unified:
            group = self._unified()
            group.enable_controllers()
            group.apply(unified, field)
        cpuset = self.paths.get("cpuset")
        if cpuset and self.tops:
            # After the limits: values of one's own must not collide with the parent's
            # cpu_exclusive on the way. An empty cpuset lets nobody join.
            cpu = resources.get("cpu") or {}
            for name in CPUSET_FILES:
                if not cpu.get(name.partition(".")[2]):
                    _inherit(cpuset, name)

    def update(
        self, old: dict[str, Any], new: dict[str, Any], asked: dict[str, Any], *, check: bool = False
    ) -> None:
        unified = self._for_unified(asked)
        if unified:
            # First: where v1 refuses something afterwards, the way back is the same the other way.
            theirs = {name: old[name] for name in unified if name in old}
            ours = {name: new[name] for name in unified}
            group = self._unified()
            group.enable_controllers()
            group.update(theirs, ours, unified, check=check)
        try:
            super().update(_but(old, unified), _but(new, unified), _but(asked, unified), check=check)
        except BaseException as error:
            if unified and theirs:
                taken_back(error, lambda: self._unified().update(ours, theirs, theirs))
            raise

    def _for_unified(self, resources: dict[str, Any]) -> dict[str, Any]:
        """The sections whose controllers a hybrid host has in cgroup2 and not on v1."""
        missing = [row for row in SECTIONS if row[0] in resources and row[1] not in self.paths]
        if not missing or "" not in self.paths:
            return {}
        has = read_text(f"{self.unified_mount}/cgroup.controllers").split()
        return {section: resources[section] for section, _, controller in missing if controller in has}

    def _unified(self) -> V2Manager:
        from ocirt.cgroups.v2 import V2Manager

        return V2Manager(self.paths[""], self.unified_mount)

    def apply_devices(self, entries: list[dict[str, Any]] | None) -> None:
        from ocirt.cgroups import devices

        directory = self.paths.get("devices")
        wanted = devices.rules(entries)
        if directory is None:
            if self.rootless or devices.allows_everything(wanted):
                return  # an ordinary user cannot make the nodes either
            raise Unsupported(devices.FIELD, self.lacks("devices"))
        fds: dict[str, int] = {}
        try:
            for file, line, index in devices.v1_lines(wanted):
                try:
                    if file not in fds:
                        fds[file] = posix.open(f"{directory}/{file}", posix.O_WRONLY | posix.O_CLOEXEC)
                    posix.write(fds[file], line.encode())
                except OSError as error:
                    if self.rootless and error.errno in DENIED:
                        return
                    field = devices.FIELD if index < 0 else f"{devices.FIELD}[{index}]"
                    raise CgroupError(field, f"{directory}/{file}", line, error.errno or 0) from None
        finally:
            for fd in fds.values():
                posix.close(fd)

    def join_fds(self) -> list[tuple[str, Opener]]:
        found = {}
        for controller, directory in self.paths.items():
            if controller:
                found[directory] = (f"{directory}/tasks", self._opener(controller, directory))
        return list(found.values())

    def _opener(self, controller: str, directory: str) -> Opener:
        def open_tasks() -> int:
            try:
                return posix.open(f"{directory}/tasks", TO_JOIN)
            except FileNotFoundError:
                if not self.init_pid:
                    raise
            # Removed while the container runs: where its init is now.
            return posix.open(f"{self._group_of_init(controller)}/tasks", TO_JOIN)

        return open_tasks

    def _group_of_init(self, controller: str) -> str:
        from ocirt.host import Host

        for key, path in procfs.cgroup_paths(self.init_pid).items():
            if controller in key.split(","):
                return f"{Host().v1_hierarchies[key]}{path}"
        raise FileNotFoundError(ENOENT, f"the container is in no group of {controller}")

    def cgroup_dir_opener(self) -> Opener | None:
        if "" not in self.paths:
            return None
        if not self.unified_mount:
            return directory_opener(self.paths[""])
        group = self._unified()
        group.init_pid = self.init_pid
        return group.cgroup_dir_opener()

    def attach(self, pid: int) -> None:
        for directory in self.groups():
            write_file(f"{directory}/cgroup.procs", str(pid))

    def _pids_directory(self) -> str | None:
        for controller in ("freezer", "devices", "pids"):
            if controller in self.paths:
                return self.paths[controller]
        return super()._pids_directory()

    def oom_kills(self) -> int:
        memory = self.paths.get("memory")
        return read_key(f"{memory}/memory.oom_control", "oom_kill") if memory else 0


def _but(resources: dict[str, Any], sections: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resources.items() if name not in sections}


def _inherit(directory: str, name: str) -> None:
    """Fill an empty cpuset.cpus or cpuset.mems from the parent, which may itself be empty yet."""
    if read_text(f"{directory}/{name}"):
        return
    parent = directory.rpartition("/")[0]
    value = read_text(f"{parent}/{name}")
    if not value:
        _inherit(parent, name)
        value = read_text(f"{parent}/{name}")
    try:
        write_file(f"{directory}/{name}", value)
    except OSError as error:
        field = f"linux.resources.cpu.{name.partition('.')[2]}"
        raise CgroupError(field, f"{directory}/{name}", value, error.errno or EINVAL) from None

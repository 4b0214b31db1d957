"""Facts about this host that appliers ask for; each is looked up when first needed."""

from __future__ import annotations

import posix

from ocirt import kernel, procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROOT = "/sys/fs/cgroup"
WHOLE_ID_MAP = [(0, 0, 4294967295)]


class Host:
    """cgroup_layout: "v2", "v1", "hybrid" (v1 with cgroup2 at unified_mount) or "" (none mounted).
    v1_hierarchies: "memory", "cpu,cpuacct", "name=systemd" to mount point.
    unified_mount: mount point of cgroup v2, "" if there is none.
    own_cgroups: hierarchy ("" is v2) to the directory, below its mount point, of this process.
    capabilities: mask of what this process may use.
    """

    def __init__(self) -> None:
        self.euid = posix.geteuid()

    if TYPE_CHECKING:
        cgroup_layout: str
        v1_hierarchies: dict[str, str]
        unified_mount: str
        own_cgroups: dict[str, str]
        in_userns: bool
        capabilities: int

    def __getattr__(self, name: str) -> Any:  # only called for what was not set yet
        if name in ("cgroup_layout", "v1_hierarchies", "unified_mount", "own_cgroups"):
            self._find_cgroups()
        elif name == "in_userns":
            self.in_userns = procfs.id_map("self") != WHOLE_ID_MAP
        elif name == "capabilities":
            self.capabilities = kernel.capget()[1]
        else:
            raise AttributeError(name)
        return self.__dict__[name]

    @property
    def rootless(self) -> bool:
        """Without the privileges of the host's root: another user, or root of a user namespace."""
        return self.euid != 0 or self.in_userns

    def mount_point_of(self, path: str) -> str:
        """Mount point of the mount that an absolute path is on."""
        path = _real(path)
        best = "/"
        for point in procfs.mount_points():
            if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
                best = point
        return best

    def _find_cgroups(self) -> None:
        """First where systemd and Docker mount them: mountinfo costs 4 us for each of the host's
        mounts, so it is read only when something is not there.
        """
        paths = procfs.cgroup_paths()
        found: dict[str, tuple[str, str]] = {}  # hierarchy to (mount point, root of the mount)
        whole = "" in paths and _magic(ROOT) == kernel.CGROUP2_SUPER_MAGIC
        if whole:
            found[""] = (ROOT, "/")
        else:
            outside = posix.stat(ROOT).st_dev if _exists(ROOT) else 0
            for key in paths:
                place = f"{ROOT}/{key.removeprefix('name=')}" if key else f"{ROOT}/unified"
                if _is_whole_hierarchy(place, outside) and (paths[key] == "/" or _exists(place + paths[key])):
                    found[key] = (place, "/")
        if not whole and not found.keys() >= paths.keys() - {""}:
            found = _from_mountinfo(paths)
        self.own_cgroups = {key: _below(paths[key], root) for key, (_, root) in found.items()}
        self.unified_mount = found.pop("", ("", ""))[0]
        self.v1_hierarchies = {key: place for key, (place, _) in found.items()}
        if self.unified_mount and all(key.startswith("name=") for key in found):
            self.cgroup_layout = "v2"
        elif found:
            self.cgroup_layout = "hybrid" if self.unified_mount else "v1"
        else:
            self.cgroup_layout = ""


def _magic(path: str) -> int:
    """Type of the file system at path; 0 if there is nothing."""
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return kernel.fstatfs_magic(fd)
    finally:
        posix.close(fd)


def _is_whole_hierarchy(path: str, outside: int) -> bool:
    """Is the root of another file system mounted there? The root of a hierarchy is its inode 1."""
    try:
        stat = posix.stat(path)
    except OSError:
        return False
    return stat.st_ino == 1 and stat.st_dev != outside


def _real(path: str) -> str:
    """path without symlinks, as far as it exists."""
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
    except OSError:
        return path
    try:
        return str(posix.readlink(f"/proc/self/fd/{fd}"))
    finally:
        posix.close(fd)


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def _from_mountinfo(paths: dict[str, str]) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for mount in procfs.mountinfo():
        if mount.fstype == "cgroup2":
            keys = [""]
        elif mount.fstype == "cgroup":
            keys = [key for key in paths if key and set(key.split(",")) <= set(mount.super)]
        else:
            continue
        for key in keys:
            # Of several mounts the one in the usual place; a bind mount elsewhere shows a part.
            if key not in found or not found[key][0].startswith(ROOT):
                found[key] = (mount.mount_point, mount.root)
    return found


def _below(path: str, root: str) -> str:
    """path of /proc/PID/cgroup as seen below a mount whose root is not the hierarchy's."""
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :] or "/"
    return "/"

"""What the appliers share while one config.json is compiled into a plan."""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.errors import SpecError
from ocirt.plan import Handle, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.host import Host
    from ocirt.options import CreateOptions, ExecOptions

# type in config.json -> name below /proc/PID/ns, name of the clone flag
NAMESPACE_TYPES = {
    "user": ("user", "CLONE_NEWUSER"),
    "pid": ("pid", "CLONE_NEWPID"),
    "mount": ("mnt", "CLONE_NEWNS"),
    "network": ("net", "CLONE_NEWNET"),
    "ipc": ("ipc", "CLONE_NEWIPC"),
    "uts": ("uts", "CLONE_NEWUTS"),
    "cgroup": ("cgroup", "CLONE_NEWCGROUP"),
    "time": ("time", "CLONE_NEWTIME"),
}


class Context:
    """The document, the plan being built, and what earlier appliers decided for later ones."""

    def __init__(
        self,
        spec: dict[str, Any],
        plan: Plan,
        *,
        bundle: str,
        container_id: str,
        options: CreateOptions | ExecOptions,
        host: Host,
        is_exec: bool = False,
    ) -> None:
        self.spec = spec
        self.plan = plan
        self.bundle = bundle
        self.id = container_id
        self.options = options
        self.host = host
        self.is_exec = is_exec
        self.no_new_keyring = bool(getattr(options, "no_new_keyring", False))
        self.warnings: list[str] = []
        self.cgroup: Any = None  # the Manager, once cgroups.apply has chosen it
        self.intel_rdt: Any = None  # the Group, once intelrdt.apply has chosen it
        self.proc = plan.handle("/proc", "", open_proc)
        self.root = 0  # register of the container's root directory
        # registers of the new procfs and sysfs, by where they are mounted; masks count from there
        self.held: dict[bytes, int] = {}
        self.null = self.empty = 0  # registers of what covers masked files and directories
        self.start_socket: Handle | None = None  # create: listening socket that start connects to
        self.console_socket: Handle | None = None
        self.sources: list[Any] | None = None  # bind sources that the parent opens (sources.py)
        self.deferred: list[tuple[str, bytes]] = []  # mounts to make read-only at the end
        self.hook_state = b""  # the state document for hooks inside, with room for the pid
        process = spec.get("process") or {}
        self.terminal = bool(process.get("terminal"))
        self.argv = [kernel.fsencode(word) for word in process.get("args") or ()]
        added = getattr(options, "environment", ())
        self.env = [kernel.fsencode(word) for word in (*(process.get("env") or ()), *added)]
        self.new_ns: set[str] = set()
        self.join_ns: dict[str, str] = {}
        for entry in (spec.get("linux") or {}).get("namespaces") or ():
            if entry.get("path"):
                self.join_ns[entry["type"]] = entry["path"]
            else:
                self.new_ns.add(entry["type"])
        root = (spec.get("root") or {}).get("path", "")
        if not root.startswith("/"):
            root = f"{bundle}/{root}"
        self.rootfs = kernel.fsencode(root)

    @property
    def linux(self) -> dict[str, Any]:
        return self.spec.get("linux") or {}

    @property
    def userns(self) -> bool:
        """Does the container have a user namespace that is not the runtime's own?"""
        return "user" in self.new_ns or "user" in self.join_ns

    def has_ns(self, kind: str) -> bool:
        """Does the container have a namespace of this type that is not the runtime's own?"""
        return kind in self.new_ns or kind in self.join_ns

    def proc_handle(self) -> Handle:
        """The parent's procfs, checked to be one; the init inherits it."""
        return self.proc

    def path_from_bundle(self, path: str) -> bytes:
        """Relative sources in config.json count from the bundle (config.md, Mounts)."""
        return kernel.fsencode(path if path.startswith("/") else f"{self.bundle}/{path}")


def open_proc() -> int:
    """O_PATH fd of /proc, refused when something else is mounted there (CVE-2025-52881)."""
    fd = posix.open("/proc", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    if kernel.fstatfs_magic(fd) != kernel.PROC_SUPER_MAGIC:
        posix.close(fd)
        raise SpecError("/proc", "is not a proc file system")
    return fd


def words_of(path: bytes) -> list[bytes]:
    """The names in a path; ".." stays."""
    return [word for word in path.split(b"/") if word not in (b"", b".")]


def lookup(document: Any, path: str) -> Any:
    """Value at a dotted path; None when a part is absent or null."""
    for name in path.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(name)
    return document

"""What this host offers to containers, what is missing for what, and the command that mends it.

Nothing is changed: files are read, and what cannot be read off is tried in a child process that ends.
"""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLDEST_KERNEL = (5, 14)
OK, MISSING, BROKEN = "ok", "missing", "broken"

# controller: what needs it
CONTROLLERS = {
    "blkio": "linux.resources.blockIO",
    "cpu": "linux.resources.cpu",
    "cpuacct": "CPU time in `ocirt events`",
    "cpuset": "linux.resources.cpu.cpus and mems",
    "devices": "linux.resources.devices",
    "freezer": "pause and resume",
    "hugetlb": "linux.resources.hugepageLimits",
    "io": "linux.resources.blockIO",
    "memory": "linux.resources.memory",
    "misc": "linux.resources.unified misc.*",
    "net_cls": "linux.resources.network.classID",
    "net_prio": "linux.resources.network.priorities",
    "perf_event": "perf of one container",
    "pids": "linux.resources.pids",
    "rdma": "linux.resources.rdma",
}
OF_V1 = tuple(name for name in CONTROLLERS if name != "io")
NEEDED_ON_V1 = {"misc": "misc.current of one container"}  # there is no field for its limits
OF_V2 = ("cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma")
DELEGATED = ("cpu", "cpuset", "io", "memory", "pids")
NAMESPACES = {
    "cgroup": "CLONE_NEWCGROUP",
    "ipc": "CLONE_NEWIPC",
    "mount": "CLONE_NEWNS",
    "network": "CLONE_NEWNET",
    "pid": "CLONE_NEWPID",
    "time": "CLONE_NEWTIME",
    "user": "CLONE_NEWUSER",
    "uts": "CLONE_NEWUTS",
}
ENTRIES = {"mount": "mnt", "network": "net"}  # below /proc/PID/ns
PSEUDO = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl hugetlbfs "
    "mqueue nsfs proc pstore ramfs rpc_pipefs securityfs selinuxfs sysfs tracefs"
)
LSMS = (
    ("apparmor", "process.apparmorProfile"),
    ("selinux", "process.selinuxLabel"),
    ("landlock", "restrictions by Landlock"),
)
PATIENCE = 10  # seconds for a program that is asked
UNPRIVILEGED = "--unprivileged"  # of criu, for all but root
DROP_IN = "/etc/systemd/system/user@.service.d"
DELEGATE_MEND = (
    f"mkdir -p {DROP_IN} && printf '[Service]\\nDelegate=cpu cpuset io memory pids\\n'"
    f" > {DROP_IN}/delegate.conf && systemctl daemon-reload"
)


class Finding:
    """One thing that was looked at. state: ok; missing: what `needed` names does not work; broken:
    no container does. found says what there is, mend the command that changes it, if there is one.
    """

    __slots__ = ("area", "found", "mend", "name", "needed", "state")

    def __init__(
        self, area: str, name: str, state: str, found: str, needed: str = "", mend: str = ""
    ) -> None:
        self.area = area
        self.name = name
        self.state = state
        self.found = found
        self.needed = needed
        self.mend = mend if state != OK else ""

    def document(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in ("area", "name", "state", "found", "needed", "mend")}


class Host:
    """The machine as it is looked at: root is in front of every path, so that tests can build one."""

    def __init__(self, root: str = "") -> None:
        self.root = root
        self.euid = os.geteuid()
        self.release = os.uname().release

    def read(self, path: str) -> str:
        """A file without the newline at its end; "" when it is not there or not for us."""
        try:
            with open(self.root + path, encoding="utf-8", errors="replace") as file:
                return file.read().rstrip("\n")
        except OSError:
            return ""

    def has(self, path: str) -> bool:
        return os.path.exists(self.root + path)

    def which(self, program: str) -> str:
        return (
            shutil.which(program, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") or ""
        )

    def mounts(self) -> list[tuple[str, str, str]]:
        """(mount point, type, options of the superblock)."""
        found = []
        for line in self.read("/proc/self/mountinfo").splitlines():
            before, _, after = line.partition(" - ")
            kind, _, rest = after.partition(" ")
            found.append((before.split()[4], kind, rest.partition(" ")[2]))
        return found

    def run(self, *words: str) -> tuple[int, str]:
        """(status, output) of a program; PATIENCE seconds at most: then the status is -1."""
        import subprocess

        try:
            done = subprocess.run(
                words,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            return -1, f"did not end within {PATIENCE} s"
        except OSError as error:
            return -1, error.strerror or "cannot be run"
        return done.returncode, done.stdout.decode("utf-8", "replace")

    def can_unshare(self, flag: str) -> str:
        """Why a child of ours cannot make a namespace of this kind; "" when it can."""
        from ocirt import kernel

        return tried(lambda: kernel.unshare(getattr(kernel, flag)))

    def can_map_ids(self, path: str) -> str:
        """Why the file system at path cannot be mounted with other ids; "" when it can."""
        return tried(lambda: _map_ids(path))


def examine(host: Host | None = None) -> list[Finding]:
    """All findings, in the order of the areas: kernel, cgroups, namespaces, security, storage, tools."""
    host = host or Host()
    found: list[Finding] = []
    for look in AREAS:
        found += look(host)
    return found


# kernel


def _kernel(host: Host) -> Iterator[Finding]:
    version = tuple(int(word) for word in host.release.split("-")[0].split(".")[:2] if word.isdigit())
    new_enough = version >= OLDEST_KERNEL
    state = OK if new_enough else BROKEN
    yield Finding("kernel", "version", state, host.release, "Linux 5.14 or newer", "boot a newer kernel")
    status = version >= (6, 15)
    found = "a pidfd tells the status" if status else "only the parent learns the status"
    yield Finding(
        "kernel", "exit status", OK if status else MISSING, found, "`ocirt wait` to print it (6.15)"
    )
    pressure = bool(host.read("/proc/pressure/memory"))
    mend = "boot with psi=1"
    found = "counted" if pressure else "not counted"
    yield Finding(
        "kernel", "pressure (PSI)", OK if pressure else MISSING, found, "psi in `ocirt events`", mend
    )
    memfd = host.read("/proc/sys/vm/memfd_noexec") or "0"
    found = "forbidden: ocirt-init runs from a tmpfs instead" if memfd == "2" else "allowed"
    yield Finding("kernel", "executable memfd", OK, found)
    yield from _keys(host)


def _keys(host: Host) -> Iterator[Finding]:
    """Each container with a new session keyring takes one key of the runtime's user."""
    for line in host.read("/proc/key-users").splitlines():
        uid, _, rest = line.partition(":")
        words = rest.split()
        if uid.strip() == str(host.euid) and len(words) == 4 and "/" in words[2]:
            used, _, most = words[2].partition("/")
            name = "root_maxkeys" if host.euid == 0 else "maxkeys"
            full = int(used) * 10 > int(most) * 9
            mend = f"sysctl -w kernel.keys.{name}=1000000"
            needed = "a session keyring for each container"
            found = f"{used} of {most} in use"
            yield Finding("kernel", "keys", MISSING if full else OK, found, needed, mend)


# cgroups


def _cgroups(host: Host) -> Iterator[Finding]:
    v1: dict[str, str] = {}
    v2 = ""
    for point, kind, options in host.mounts():
        if kind == "cgroup2":
            v2 = v2 or point
        elif kind == "cgroup":
            v1.update({name: point for name in options.split(",") if name in OF_V1})
    layout = "hybrid" if v1 and v2 else "v1" if v1 else "v2" if v2 else ""
    if not layout:
        mend = "mount -t cgroup2 none /sys/fs/cgroup"
        yield Finding("cgroups", "layout", BROKEN, "no cgroup file system is mounted", "any limit", mend)
        return
    yield Finding("cgroups", "layout", OK, layout)
    in_v2 = host.read(f"{v2}/cgroup.controllers").split() if v2 else []
    for name in OF_V2 if layout == "v2" else OF_V1:
        if name in v1:
            yield Finding("cgroups", name, OK, v1[name])
        elif name in in_v2:
            yield Finding("cgroups", name, OK, f"{v2} (cgroup2)")
        else:
            yield _without(host, name, layout)
    if layout == "v2":
        yield Finding("cgroups", "devices", OK, "by eBPF programs")
        yield Finding("cgroups", "freezer", OK, "cgroup.freeze")
    swap = (
        host.has(f"{v1['memory']}/memory.memsw.limit_in_bytes") if "memory" in v1 else _limits_swap(host, v2)
    )
    found = "counted" if swap else "not counted"
    mend = "boot with swapaccount=1"
    yield Finding("cgroups", "swap", OK if swap else MISSING, found, "linux.resources.memory.swap", mend)


def _resctrl(host: Host) -> Iterator[Finding]:
    """Classes of service: caches and memory bandwidth (Intel RDT, AMD QoS, Arm MPAM)."""
    point = next((point for point, kind, _ in host.mounts() if kind == "resctrl"), "")
    if point:
        try:
            names = sorted(os.listdir(f"{host.root}{point}/info"))
        except OSError:
            names = []
        controls = " ".join(name for name in names if name != "last_cmd_status")
        yield Finding("cgroups", "resctrl", OK, f"{point}: {controls or 'not for this user'}")
        return
    kinds = [line.split()[-1] for line in host.read("/proc/filesystems").splitlines() if line.split()]
    if "resctrl" in kinds:
        found, mend = "not mounted", "mount -t resctrl resctrl /sys/fs/resctrl"
    else:
        found, mend = "not of this kernel and processor", ""
    yield Finding("cgroups", "resctrl", MISSING, found, "linux.intelRdt", mend)


def _without(host: Host, name: str, layout: str) -> Finding:
    known = {words[0]: words[-1] for words in map(str.split, host.read("/proc/cgroups").splitlines()[1:])}
    needed = CONTROLLERS[name]
    if layout != "v2":
        needed = NEEDED_ON_V1.get(name, needed)
    else:
        available = {"io": "blkio"}.get(name, name)
        if known.get(available) == "0":
            return Finding(
                "cgroups", name, MISSING, "switched off", needed, f"boot without cgroup_disable={name}"
            )
        if known.get(available) == "1":
            found, mend = "in a v1 hierarchy", "boot with systemd.unified_cgroup_hierarchy=1"
            return Finding("cgroups", name, MISSING, found, needed, mend)
        return Finding("cgroups", name, MISSING, "not in this kernel", needed)
    if name not in known:
        return Finding("cgroups", name, MISSING, "not in this kernel", needed)
    if known[name] == "0":
        return Finding(
            "cgroups", name, MISSING, "switched off", needed, f"boot without cgroup_disable={name}"
        )
    directory = f"/sys/fs/cgroup/{name}"
    mend = f"mkdir {directory} && mount -t cgroup -o {name} {name} {directory}"
    return Finding("cgroups", name, MISSING, "not mounted", needed, mend)


def _limits_swap(host: Host, v2: str) -> bool:
    """The top group has no such file: that of any group below says it."""
    try:
        names = sorted(os.listdir(host.root + v2))
    except OSError:
        return False
    below = [name for name in names if host.has(f"{v2}/{name}/memory.max")]
    return any(host.has(f"{v2}/{name}/memory.swap.max") for name in below) if below else True


def _systemd(host: Host) -> Iterator[Finding]:
    runs = host.has("/run/systemd/private") or host.has("/run/systemd/system")
    found = "runs" if runs else "does not run"
    state = OK if runs else MISSING
    yield Finding("cgroups", "systemd", state, found, "--systemd-cgroup, --cgroup-manager systemd")


def _delegation(host: Host) -> Iterator[Finding]:
    """What a user without privileges may use: what systemd has handed to the user's own manager."""
    v2 = next((point for point, kind, _ in host.mounts() if kind == "cgroup2"), "")
    uids = [host.euid] if host.euid else _users_with_managers(host, v2)
    for uid in uids:
        group = f"{v2}/user.slice/user-{uid}.slice/user@{uid}.service"
        if not v2 or not host.has(group):
            mend = f"loginctl enable-linger {uid}"
            found = "no systemd of this user"
            yield Finding(
                "cgroups", f"delegation to {uid}", MISSING, found, "limits of rootless containers", mend
            )
            continue
        has = host.read(f"{group}/cgroup.controllers").split()
        lacks = [name for name in DELEGATED if name not in has]
        found = f"{' '.join(has) or 'none'}" + (f"; not {' '.join(lacks)}" if lacks else "")
        needed = "limits of rootless containers"
        yield Finding(
            "cgroups", f"delegation to {uid}", MISSING if lacks else OK, found, needed, DELEGATE_MEND
        )


def _users_with_managers(host: Host, v2: str) -> list[int]:
    try:
        names = os.listdir(f"{host.root}{v2}/user.slice")
    except OSError:
        return []
    words = [name.removeprefix("user-").removesuffix(".slice") for name in names if name.startswith("user-")]
    return sorted(int(word) for word in words if word.isdigit() and word != "0")


# namespaces and ids


def _namespaces(host: Host) -> Iterator[Finding]:
    for name, flag in NAMESPACES.items():
        needed = f"linux.namespaces {name}"
        if not host.has(f"/proc/self/ns/{ENTRIES.get(name, name)}"):
            state = BROKEN if name == "mount" else MISSING
            yield Finding("namespaces", name, state, "not in this kernel", needed)
            continue
        why = host.can_unshare(flag)
        if not why:
            yield Finding("namespaces", name, OK, "can be made")
        else:
            found, mend = _why_not(host, name, why)
            yield Finding("namespaces", name, MISSING, found, needed, mend)


def _why_not(host: Host, name: str, why: str) -> tuple[str, str]:
    """The setting that forbids it, and the command that allows it."""
    entry = ENTRIES.get(name, name)
    if host.read(f"/proc/sys/user/max_{entry}_namespaces") == "0":
        return f"user.max_{entry}_namespaces is 0", f"sysctl -w user.max_{entry}_namespaces=28633"
    if name == "user" and host.read("/proc/sys/kernel/unprivileged_userns_clone") == "0":
        setting = "kernel.unprivileged_userns_clone"
        return f"{setting} is 0", f"sysctl -w {setting}=1"
    if name == "user" and host.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        setting = "kernel.apparmor_restrict_unprivileged_userns"
        return f"{setting} is 1", f"sysctl -w {setting}=0"
    if host.euid:
        return f"{why}: only in a user namespace of one's own", ""
    return why, ""


def _users(host: Host) -> Iterator[Finding]:
    """Subordinate ids: without them a rootless container has a single user."""
    if not host.euid:
        return
    import pwd

    try:
        name = pwd.getpwuid(host.euid).pw_name
    except KeyError:
        name = str(host.euid)
    for kind in ("uid", "gid"):
        lines = [line.split(":") for line in host.read(f"/etc/sub{kind}").splitlines()]
        mine = [words for words in lines if words[0] in (name, str(host.euid)) and len(words) == 3]
        found = ", ".join(f"{words[2]} from {words[1]}" for words in mine) or "none"
        mend = f"usermod --add-sub{kind}s 100000-165535 {name}"
        needed = "rootless containers with more than one user"
        yield Finding("namespaces", f"sub{kind}", OK if mine else MISSING, found, needed, mend)
        tool = f"new{kind}map"
        there = host.which(tool)
        yield Finding(
            "namespaces",
            tool,
            OK if there else MISSING,
            there or "not installed",
            needed,
            "apt-get install uidmap",
        )


# security


def _security(host: Host) -> Iterator[Finding]:
    modules = list(filter(None, host.read("/sys/kernel/security/lsm").split(",")))
    if not modules:
        found, mend = "no list of them can be read", "mount -t securityfs none /sys/kernel/security"
        yield Finding("security", "modules", MISSING, found, "to tell which are enabled", mend)
    for name, needed in LSMS if modules else ():
        if name in modules:
            yield Finding("security", name, OK, "enabled")
        else:
            mend = f"boot with lsm={','.join([*modules, name])}"
            yield Finding("security", name, MISSING, "not enabled", needed, mend)
    if "apparmor" in modules:
        parser = host.which("apparmor_parser")
        yield Finding(
            "security",
            "apparmor_parser",
            OK if parser else MISSING,
            parser or "not installed",
            "to load profiles",
            "apt-get install apparmor",
        )
    actions = host.read("/proc/sys/kernel/seccomp/actions_avail").split()
    found = " ".join(actions) or "not in this kernel"
    yield Finding("security", "seccomp", OK if actions else MISSING, found, "linux.seccomp")
    from ocirt.version import seccomp_version

    version = seccomp_version()
    mend = "apt-get install libseccomp-dev and install ocirt again"
    yield Finding(
        "security", "libseccomp", OK if version else MISSING, version or "not built in", "linux.seccomp", mend
    )


# storage


def _storage(host: Host) -> Iterator[Finding]:
    kinds = [line.split()[-1] for line in host.read("/proc/filesystems").splitlines() if line.split()]
    overlay = "overlay" in kinds
    found = "available" if overlay else "not loaded"
    needed = "images in layers (podman, docker)"
    yield Finding("storage", "overlay", OK if overlay else MISSING, found, needed, "modprobe overlay")
    seen: dict[str, str] = {}
    for point, kind, _ in host.mounts():
        if kind not in PSEUDO.split():
            seen.setdefault(kind, point)
    for kind, point in list(seen.items())[:8]:
        why = host.can_map_ids(point)
        found = f"{kind} at {point}: {why or 'can be mounted with other ids'}"
        yield Finding("storage", f"idmap {kind}", MISSING if why else OK, found, "id-mapped mounts")
    fuse = host.has("/dev/fuse")
    yield Finding(
        "storage",
        "/dev/fuse",
        OK if fuse else MISSING,
        "there" if fuse else "missing",
        "fuse-overlayfs",
        "modprobe fuse",
    )


def _map_ids(path: str) -> None:
    """In a child: a detached copy of the mount gets a map of ids. It vanishes with the child."""
    from ocirt import kernel

    ready, tell = os.pipe()
    holder = os.fork()
    if holder == 0:
        try:
            os.close(ready)
            kernel.unshare(kernel.CLONE_NEWUSER)
            os.write(tell, b"1")
            time.sleep(60)  # until it is killed; not for ever, whatever happens to its parent
        finally:
            os._exit(0)
    os.close(tell)
    try:
        if not os.read(ready, 1):
            raise OSError(1, "no user namespace can be made")
        for kind in ("uid", "gid"):
            with open(f"/proc/{holder}/{kind}_map", "w", encoding="ascii") as file:
                file.write("0 100000 65536")
        kernel.unshare(kernel.CLONE_NEWNS)
        userns = os.open(f"/proc/{holder}/ns/user", os.O_RDONLY)
        tree = kernel.open_tree(-100, path, kernel.OPEN_TREE_CLONE)
        kernel.mount_setattr(
            tree, "", kernel.AT_EMPTY_PATH, attr_set=kernel.MOUNT_ATTR_IDMAP, userns_fd=userns
        )
    finally:
        os.kill(holder, 9)
        os.waitpid(holder, 0)


def tried(act: Callable[[], object]) -> str:
    """Do act in a child process; the words of the error that it failed with, "" for none."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            act()
        except OSError as error:
            os.write(tell, (error.strerror or "failed").encode())
        finally:
            os._exit(0)
    os.close(tell)
    with open(ready, "rb") as pipe:
        words = pipe.read().decode()
    os.waitpid(child, 0)
    return words


# tools


def _tools(host: Host) -> Iterator[Finding]:
    yield _criu(host)
    for name, needed, package in (
        ("newuidmap", "rootless podman", "uidmap"),
        ("fuse-overlayfs", "rootless images where overlay cannot be mounted", "fuse-overlayfs"),
        ("slirp4netns", "the network of rootless containers", "slirp4netns"),
    ):
        if name == "newuidmap" and host.euid:
            continue  # told with the ids
        path = host.which(name)
        found = path or "not installed"
        yield Finding("tools", name, OK if path else MISSING, found, needed, f"apt-get install {package}")


def _criu(host: Host) -> Finding:
    """criu knows itself which features of the kernel it needs, and tries them."""
    needed = "checkpoint and restore"
    path = host.which("criu")
    if not path:
        return Finding("tools", "criu", MISSING, "not installed", needed, "apt-get install criu")
    status, output = host.run(path, "check", *([UNPRIVILEGED] if host.euid else []))
    if status and host.euid and f"unrecognized option '{UNPRIVILEGED}'" in output:
        found = f"{path}: does not know {UNPRIVILEGED} (criu 3.18): it is for root only, who can check it"
        return Finding("tools", "criu", MISSING, found, f"{needed} without root")
    if status == 0:
        return Finding("tools", "criu", OK, f"{path}: `criu check` succeeds")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.partition("): ")[2] or line for line in lines if line.startswith("Error")]
    why = "; ".join(errors[:3]) or " ".join(lines[-1:]) or f"status {status}"
    return Finding("tools", "criu", MISSING, f"{path}: `criu check`: {why}", needed)


AREAS = (
    _kernel,
    _cgroups,
    _resctrl,
    _systemd,
    _delegation,
    _namespaces,
    _users,
    _security,
    _storage,
    _tools,
)

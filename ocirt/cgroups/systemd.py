"""cgroups by way of systemd: it makes a scope for the container's process and keeps its books of it;
what it has no property for is written to the files of the group afterwards.

    parent                          systemd                     ocirt-init
      | <------------------------------------------------------- SYNC SCOPE
      | StartTransientUnit(PIDs=[pid]) -> makes the group, moves pid
      | <---- JobRemoved "done" ------
      | limits to the files of the group
      | --------------------------------------------------------> goes on
"""

from __future__ import annotations

import posix
import time
from errno import EACCES, ECANCELED, ECONNREFUSED, EEXIST, EINVAL, EIO, ENOENT, ETIMEDOUT

from ocirt import kernel, procfs
from ocirt.cgroups import devices
from ocirt.cgroups.files import read_key
from ocirt.cgroups.manager import (
    PATH_FIELD,
    Manager,
    check_empty,
    frozen_error,
    make_group,
    remove_if_empty,
)
from ocirt.cgroups.resources import FIELD, IDLE_WEIGHT, properties
from ocirt.errors import CgroupError, SpecError, Unsupported, taken_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ocirt.cgroups.dbus import Bus
    from ocirt.cgroups.manager import Opener, Undo
    from ocirt.context import Context
    from ocirt.host import Host

    Property = tuple[str, tuple[str, Any]]  # name, (D-Bus signature, value)

PREFIX = "ocirt"  # of the scope's name when cgroupsPath does not say
ANNOTATION = "org.systemd.property."
BINDS = frozenset(("bind", "rbind", "remount"))
SUBGROUP = "run.oci.systemd.subgroup"  # the annotation of crun(1)
# What cgroupsPath and the runtime decide; an annotation that sets it would take the process away.
OURS = ("PIDs", "PIDFDs", "Slice", "Delegate", "DelegateSubgroup", "ControlGroup")
UNIT_NAME_MAX = 255
PROPERTIES = "org.freedesktop.DBus.Properties"
KNOWS_IDLE = 252  # version of systemd
UNIT_LETTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:-_.\\@")
ERRNO = {
    "org.freedesktop.DBus.Error.AccessDenied": EACCES,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": EACCES,
    "org.freedesktop.DBus.Error.NoReply": ETIMEDOUT,
    "org.freedesktop.DBus.Error.Timeout": ETIMEDOUT,
    "org.freedesktop.DBus.Error.ServiceUnknown": ECONNREFUSED,
    "org.freedesktop.systemd1.NoSuchUnit": ENOENT,
    "org.freedesktop.systemd1.UnitExists": EEXIST,
}
UNKNOWN_TO_SYSTEMD = ("hugepageLimits", "rdma", "unified")
START = "ssa(sv)a(sa(sv))"  # name, mode, properties, other units with theirs
JOB_ERRNO = {"timeout": ETIMEDOUT, "canceled": ECANCELED}
ANY_DEVICE = [{"allow": True, "access": devices.ALL}]
EVERY_DEVICE: list[Property] = [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
# v1: in a group of the devices hierarchy from the start and as long as it lives. When systemd begins or
# ceases to use that hierarchy, it moves the processes into the groups of its slices there.
EVERY_DEVICE_V1: list[Property] = [
    ("DevicePolicy", ("s", "strict")),
    ("DeviceAllow", ("a(ss)", [])),  # empty: forget the earlier ones
    ("DeviceAllow", ("a(ss)", [("char-*", "rwm"), ("block-*", "rwm")])),
]


# Names


def parse_path(path: str, container_id: str, user: bool) -> tuple[str, str]:
    """(slice, scope) of linux.cgroupsPath "slice:prefix:name"; each part may be empty.

    Raises SpecError.
    """
    parts = path.split(":") if path else ["", PREFIX, container_id]
    if len(parts) != 3:
        reason = f"{path!r} is not slice:prefix:name, which the systemd cgroup manager takes"
        raise SpecError(PATH_FIELD, reason)
    slice_name, prefix, name = parts
    slice_name = slice_name or ("user.slice" if user else "system.slice")
    name = name or container_id
    if name.endswith(".slice"):
        raise SpecError(PATH_FIELD, f"{name} is a slice, and processes go into a scope")
    expand_slice(slice_name)
    stem = escape(name.removesuffix(".scope"))
    scope = f"{escape(prefix)}-{stem}.scope" if prefix else f"{stem}.scope"
    if len(scope) > UNIT_NAME_MAX:
        raise SpecError(PATH_FIELD, f"the name of the scope has {len(scope)} letters, more than 255")
    return slice_name, scope


def escape(text: str) -> str:
    r"""Letters that no unit may have in its name as \xNN, the way systemd-escape writes them."""
    if UNIT_LETTERS.issuperset(text):
        return text
    data = kernel.fsencode(text)
    return "".join(chr(c) if chr(c) in UNIT_LETTERS else f"\\x{c:02x}" for c in data)


def expand_slice(name: str) -> str:
    """ "a-b.slice" is the group /a.slice/a-b.slice; "-.slice" is the root, ""."""
    stem = name.removesuffix(".slice")
    if name == "-.slice":
        return ""
    if stem == name or not stem or not UNIT_LETTERS.issuperset(stem) or "" in stem.split("-"):
        raise SpecError(PATH_FIELD, f"{name!r} is not the name of a slice")
    path = before = ""
    for part in stem.split("-"):
        before = f"{before}-{part}" if before else part
        path += f"/{before}.slice"
    return path


def subgroup(annotations: dict[str, str]) -> str:
    """Name of the group below the scope that the container is to have; "" for the scope itself.

    Raises SpecError.
    """
    name = annotations.get(SUBGROUP) or ""
    if "/" in name or name in (".", "..") or "\n" in name:
        raise SpecError(f"annotations.{SUBGROUP}", f"{name!r} is not the name of a directory")
    return name


# The manager


def choose(ctx: Context, path: str, rootless: bool) -> SystemdManager:
    """The scope of a new container; nothing is asked of systemd yet."""
    slice_name, scope = parse_path(path, ctx.id, rootless)
    resources = ctx.linux.get("resources") or {}
    version = 2 if ctx.host.cgroup_layout == "v2" else 1
    wanted: list[Property] = [
        ("Description", ("s", f"container {ctx.id}")),
        ("Slice", ("s", slice_name)),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        # A scope whose process was killed for want of memory would stay as a failed unit.
        ("CollectMode", ("s", "inactive-or-failed")),
    ]
    for name in ("CPU", "Memory", "Tasks", "IO" if version == 2 else "BlockIO"):
        wanted.append((f"{name}Accounting", ("b", True)))
    annotations = ctx.spec.get("annotations") or {}
    if any(name.startswith(ANNOTATION) for name in annotations):
        wanted += annotation_properties(annotations)
    # Behind the annotations: the limits and rules of linux.resources count more.
    wanted += resource_properties(resources, version)
    later = False
    if not rootless:
        allowing, rules = (
            device_properties(each, version) for each in (ANY_DEVICE, resources.get("devices"))
        )
        later = rules != allowing and may_open_devices(ctx.spec.get("mounts") or ())
        rules = allowing if later else rules
        wanted += rules if rules != EVERY_DEVICE else []  # which a new scope has anyway
    inner = subgroup(annotations)
    top = manager_root(ctx.host, rootless)
    group = f"{top}{expand_slice(slice_name)}/{scope}"
    files = files_manager(ctx.host, top, f"{group}/{inner}" if inner else group, rootless)
    manager = SystemdManager(files, scope, rootless, ctx.host, wanted)
    manager.subgroup = inner
    manager.tell_devices = later
    return manager


def may_open_devices(mounts: Iterable[dict[str, Any]]) -> bool:
    """Is there a mount for which the init has to open a block device, which a rule may deny?"""
    return any(
        str(mount.get("source") or "").startswith("/")
        and mount.get("type") != "bind"
        and not BINDS.intersection(mount.get("options") or ())
        for mount in mounts
    )


def load(saved: dict[str, Any]) -> SystemdManager:
    """The manager that save() described."""
    from ocirt import cgroups
    from ocirt.host import Host

    files = cgroups.load({**saved, "driver": "cgroupfs"})
    manager = SystemdManager(files, saved["unit"], saved["user"], Host(), None)
    manager.subgroup = saved.get("subgroup", "")
    return manager


def manager_root(host: Host, user: bool) -> str:
    """The group, below the mount point, in which systemd (or the user's) makes its slices; "" is
    the top. Told from where systemd itself is, so that it is also right in a container.
    """
    key = systemd_hierarchy(host)
    own = host.own_cgroups.get(key, "/")
    if not user:
        return _below_mount(host, key, procfs.cgroup_paths(1).get(key, "/").removesuffix("/init.scope"))
    head, found, tail = own.partition("/user@")
    if found:
        return f"{head}{found}{tail.partition('/')[0]}"
    uid = procfs.id_map("self")[0][1] if host.in_userns else host.euid
    return f"/user.slice/user-{uid}.slice/user@{uid}.service"


def systemd_hierarchy(host: Host) -> str:
    """The hierarchy in which systemd keeps its units."""
    return "" if host.cgroup_layout == "v2" else "name=systemd"


def _below_mount(host: Host, key: str, path: str) -> str:
    """A path of /proc/PID/cgroup as seen below the mount point, which may show only a part."""
    own = host.own_cgroups.get(key, "/")
    hidden = procfs.cgroup_paths()[key].rstrip("/").removesuffix(own.rstrip("/"))
    return path.removeprefix(hidden).rstrip("/")


def files_manager(host: Host, top: str, inner: str, user: bool) -> Manager:
    """The cgroupfs manager for the files of the group inner, in every hierarchy."""
    if host.cgroup_layout == "v2":
        from ocirt.cgroups.v2 import V2Manager

        unified = V2Manager(host.unified_mount + inner, host.unified_mount)
        unified.rootless = user
        return unified
    from ocirt.cgroups.v1 import V1Manager

    if "name=systemd" not in host.v1_hierarchies:
        raise Unsupported(PATH_FIELD, "the systemd cgroup manager needs systemd, which is not running here")
    paths: dict[str, str] = {}
    tops: dict[str, str] = {}
    unified_mount = {"": host.unified_mount} if host.unified_mount else {}
    for key, mount in (host.v1_hierarchies | unified_mount).items():
        # A user's systemd is given no controllers of v1, only groups to keep its units in.
        if user and not posix.access(mount + top, posix.W_OK):
            continue
        tops[mount + inner] = mount
        for controller in key.split(","):
            paths[controller] = mount + inner
    manager = V1Manager(paths, tops)
    manager.rootless = user
    return manager


class SystemdManager(Manager):
    """A scope; files is the manager of its directories, to which all that is not systemd's goes.

    wanted: properties of a scope that is still to be made.
    """

    driver = "systemd"

    def __init__(
        self, files: Manager, unit: str, user: bool, host: Host, wanted: list[Property] | None
    ) -> None:
        super().__init__(files.paths)
        self.files = files
        self.version = files.version
        self.unit = unit
        self.user = user
        self.host = host
        self.wanted = wanted
        self.subgroup = ""  # below the scope; files are that group's
        self.tell_devices = False  # of a new scope: the rules come after the mounts
        self._started = False
        self._bus: Bus | None = None  # from the start of the scope until its device rules are set
        # A new scope is made around a process. Into one that is there the init goes by itself,
        # unless it belongs to a user's systemd: the way there crosses groups that are root's.
        self.needs_pid = wanted is not None or user

    def save(self) -> dict[str, Any]:
        saved = {**self.files.save(), "driver": self.driver, "unit": self.unit, "user": self.user}
        return {**saved, "subgroup": self.subgroup} if self.subgroup else saved

    def _scope(self, group: str) -> str:
        """Directory of the scope to which a group of the container belongs."""
        return group.removesuffix(f"/{self.subgroup}") if self.subgroup else group

    # Making the scope

    def create(self, undo: Undo) -> None:
        """Check that the group is free; on v1 make it in all hierarchies, as systemd uses only some."""
        if self.version == 1:
            self.files.create(undo)
        else:
            scope = self._scope(self.paths[""])
            check_empty(scope)
            parent = scope.rpartition("/")[0]
            if read_key(f"{parent}/cgroup.events", "frozen"):
                raise frozen_error(parent)
        undo(self._abandon)

    def attach(self, pid: int) -> None:
        """Make the scope around a process, or put one more into it. Raises CgroupError."""
        if self.wanted is None:
            with self._connect() as bus:
                self._call(bus, "AttachProcessesToUnit", "ssau", self.unit, self._inner(), [pid])
            return
        bus = self._bus = self._connect()
        job = self._start(bus, [*self._known(bus, self.wanted), ("PIDs", ("au", [pid]))])
        self._started = True
        result = self._ask("StartTransientUnit", bus.wait_for_job, job)
        if result != "done":
            raise self._unfinished("StartTransientUnit", result)
        if not self.tell_devices:
            self._disconnect()
        self._find(pid)
        if self.version == 1:
            self._join_hierarchies(pid)
        elif self.subgroup:
            self._join_subgroup(pid)

    def _inner(self) -> str:
        """The group that exec is to join, below the scope: "" or "/NAME"."""
        from ocirt.cgroups.v2 import V2Manager

        group = self.paths.get("", "")
        if isinstance(self.files, V2Manager):
            self.files.init_pid = self.init_pid
            group = self.files.joinable()
        inner = group.removeprefix(self._scope(self.paths.get("", "")))
        return inner if inner != group else ""

    def _start(self, bus: Bus, wanted: list[Property]) -> str:
        """Object path of the start job."""
        for pause in (0.0, 0.02, 0.1, 0.5):
            try:
                (job,) = self._call(bus, "StartTransientUnit", START, self.unit, "replace", wanted, [])
                return str(job)
            except CgroupError as error:
                if error.errno != EEXIST:
                    raise
                found = error
            # An earlier container's that failed, or has ended but is not collected yet. One that
            # is active stays as it is, and so does the error.
            try:
                self._call(bus, "ResetFailedUnit", "s", self.unit)
            except CgroupError as error:
                if error.errno != ENOENT:
                    raise
            time.sleep(pause)
        raise found

    def _find(self, pid: int) -> None:
        """Where systemd put the process is the truth; that we foresaw it is a convenience."""
        key = systemd_hierarchy(self.host)
        inner = _below_mount(self.host, key, procfs.cgroup_paths(pid)[key])
        mount = self.host.v1_hierarchies[key] if key else self.host.unified_mount
        if mount + inner != self._scope(self.paths[key]):
            if self.version == 1:
                raise self._error("StartTransientUnit", EIO, f"systemd put the process into {inner}")
            group = f"{inner}/{self.subgroup}" if self.subgroup else inner
            self.files = files_manager(self.host, "", group, self.user)
            self.paths = self.files.paths

    def _join_subgroup(self, pid: int) -> None:
        """The process first: a group with processes cannot hand its controllers on."""
        from ocirt.cgroups.v2 import hand_down

        scope, group = self._scope(self.paths[""]), self.paths[""]
        make_group(group, scope, lambda _: None)
        try:
            self.files.attach(pid)
        except OSError as error:
            raise CgroupError(PATH_FIELD, f"{group}/cgroup.procs", str(pid), error.errno or EIO) from None
        hand_down(scope)

    def _join_hierarchies(self, pid: int) -> None:
        """Put the process where systemd did not: it has moved it in the hierarchies that it uses."""
        for directory, top in getattr(self.files, "tops", {}).items():
            # Empty groups of controllers that it knows and does not use, it has removed (blkio).
            make_group(directory, top, lambda _: None)
        self.files.apply({})  # nobody can join an empty cpuset
        self.files.attach(pid)

    def _known(self, bus: Bus, wanted: list[Property]) -> list[Property]:
        """Without what this systemd is too old for. One that knows idle groups ends it when not told."""
        idle: Property = ("CPUWeight", ("t", IDLE_WEIGHT))
        if idle not in wanted:
            return wanted
        words = ("org.freedesktop.systemd1.Manager", "Version")
        (text,) = self._ask("Get", lambda: bus.call("Get", "ss", *words, interface=PROPERTIES))
        digits = "".join(letter if letter.isdigit() else " " for letter in str(text)).split()
        new_enough = bool(digits) and int(digits[0]) >= KNOWS_IDLE
        return wanted if new_enough else [each for each in wanted if each != idle]

    def _abandon(self) -> None:
        """Undo. A scope of the same name that is not ours stays."""
        self._disconnect()
        if self._started:
            self.destroy()

    # Limits

    def apply(self, resources: dict[str, Any], field: str = FIELD) -> None:
        """Write the limits to the files. systemd has to know them first, or it would bring the old
        ones back at its next reload; a new scope was made with them.
        """
        if self.wanted is None:
            self._set(resource_properties(resources, self.version))
        self.wanted = None
        if self.version == 2 and not self.user:
            self._hand_down(resources)
        self.files.apply(resources, field)

    def _hand_down(self, resources: dict[str, Any]) -> None:
        """systemd does not know these controllers, and so enables them nowhere on the way."""
        from ocirt.cgroups.v2 import V2Manager

        if isinstance(self.files, V2Manager) and any(resources.get(name) for name in UNKNOWN_TO_SYSTEMD):
            self.files.enable_controllers()

    def apply_devices(self, entries: list[dict[str, Any]] | None) -> None:
        """systemd has to know the rules: on v1 its next reload would else allow every device. A scope
        is made with them, unless the init needs other devices for its mounts.
        """
        if self.tell_devices:
            self._set(device_properties(entries, self.version))
        self.files.apply_devices(entries)

    def update(
        self, old: dict[str, Any], new: dict[str, Any], asked: dict[str, Any], *, check: bool = False
    ) -> None:
        from ocirt.cgroups.update import changed_properties, former_properties

        before = properties(old, self.version)
        told = changed_properties(before, properties(new, self.version), asked)
        self.check_use(new, asked, check)  # before systemd writes the limit
        if self.version == 2 and not self.user:
            self._hand_down(asked)
        self._set([(name, (kind, value)) for _, name, kind, value in told])
        try:
            without = [_but_devices(each) for each in (old, new, asked)]
            self.files.update(*without)
            self.update_devices(old.get("devices"), new.get("devices"))
        except BaseException as error:
            former = [(name, (kind, value)) for _, name, kind, value in former_properties(before, told)]
            taken_back(error, lambda: self._set(former))
            raise

    def update_devices(self, old: list[dict[str, Any]] | None, new: list[dict[str, Any]] | None) -> None:
        if self.version == 1 and not self.user and devices.rules(old) != devices.rules(new):
            with self._connect() as bus:  # one that hangs is found before the processes are stopped for it
                self._ping(bus)
        super().update_devices(old, new)

    def replace_devices(self, entries: list[dict[str, Any]] | None) -> None:
        if not self.user:
            self._set(device_properties(entries, self.version))
        self.files.replace_devices(entries)

    def describe(self, resources: dict[str, Any], field: str = FIELD) -> list[tuple[str, str, str]]:
        rows = []
        for where, name, signature, value in properties(resources, self.version):
            shown = value.hex() if signature == "ay" else str(value)
            rows.append((where.replace(FIELD, field, 1), f"{self.unit} {name}", shown))
        return rows + self.files.describe(resources, field)

    def _set(self, wanted: list[Property]) -> None:
        """SetUnitProperties, and wait until they are in force: systemd answers before it writes the
        files, but writes them before it reads the next message.
        """
        if not wanted:
            return
        with self._bus or self._connect() as bus:
            self._call(bus, "SetUnitProperties", "sba(sv)", self.unit, True, self._known(bus, wanted))
            self._ping(bus)
        self._bus = None

    def _ping(self, bus: Bus) -> None:
        self._ask("Ping", lambda: bus.call("Ping", interface="org.freedesktop.DBus.Peer"))

    # The end

    def destroy(self) -> None:
        """Stop the scope, wait until it is gone, and remove what is left of its groups."""
        try:
            bus = self._connect()
        except CgroupError:
            if any(posix.access(group, posix.F_OK) for group in self.files.groups()):
                raise
            return  # the user's systemd went away and took the scope with it
        with bus:
            try:
                (job,) = self._call(bus, "StopUnit", "ss", self.unit, "replace")
                result = self._ask("StopUnit", bus.wait_for_job, job)
                if result not in ("done", "canceled"):
                    raise self._unfinished("StopUnit", result)
            except CgroupError as error:
                if error.errno != ENOENT:  # it ended with its last process
                    raise
        self.files.destroy()
        self._remove_scopes()

    def remove_empty(self) -> None:
        super().remove_empty()
        self._remove_scopes()

    def _remove_scopes(self) -> None:
        """What subgroups leave: on v1 the scope is also in hierarchies that systemd does not use."""
        for group in self.files.groups() if self.subgroup else ():
            remove_if_empty(self._scope(group))

    # Talking to systemd

    def _connect(self) -> Bus:
        from ocirt.cgroups.dbus import Bus

        try:
            return Bus(self.user)
        except OSError as error:
            # Not ENOENT: engines take "no such file or directory" for the container's command.
            number = ECONNREFUSED if error.errno == ENOENT else error.errno or EIO
            whose = f"the systemd of user {posix.geteuid()}" if self.user else "systemd"
            hint = f"{whose} is not reached at {kernel.fsdecode(error.filename or b'')}"
            raise self._error("connect for", number, hint) from None

    def _disconnect(self) -> None:
        if self._bus is not None:
            self._bus.close()
            self._bus = None

    def _call(self, bus: Bus, member: str, signature: str, *values: Any) -> list[Any]:
        return self._ask(member, bus.call, member, signature, *values)  # type: ignore[no-any-return]

    def _ask(self, member: str, call: Callable[..., Any], *arguments: Any) -> Any:
        from ocirt.cgroups.dbus import DBusError

        try:
            return call(*arguments)
        except DBusError as error:
            raise self._error(member, ERRNO.get(error.name, EINVAL), str(error)) from None
        except OSError as error:
            whose = "the user's systemd" if self.user else "systemd"
            raise self._error(member, error.errno or EIO, f"{whose}: {error.strerror}") from None

    def _unfinished(self, member: str, result: str) -> CgroupError:
        hint = f"its job ended with {result!r}; see journalctl -u {self.unit}"
        return self._error(member, JOB_ERRNO.get(result, EIO), hint)

    def _error(self, member: str, errno: int, hint: str) -> CgroupError:
        return CgroupError(PATH_FIELD, f"{member} {self.unit}", "", errno, hint)

    # What concerns only the files

    def hand_over(self, uid: int) -> None:
        self.files.hand_over(uid)

    def join_fds(self) -> list[tuple[str, Opener]]:
        return self.files.join_fds()

    def cgroup_dir_opener(self) -> Opener | None:
        self.files.init_pid = self.init_pid
        return self.files.cgroup_dir_opener()

    def directory(self, controller: str) -> str | None:
        return self.files.directory(controller)

    def lacks(self, controller: str) -> str:
        return self.files.lacks(controller)

    def missing_file(self, directory: str, names: str) -> str:
        return self.files.missing_file(directory, names)

    def groups(self) -> list[str]:
        return self.files.groups()

    def pids(self, all: bool = True) -> list[int]:
        return self.files.pids(all)

    def kill_all(self, signal: int) -> None:
        self.files.kill_all(signal)

    def oom_kills(self) -> int:
        return self.files.oom_kills()


# Properties


def resource_properties(resources: dict[str, Any], version: int) -> list[Property]:
    """What systemd knows of linux.resources, without the devices."""
    return [(name, (kind, value)) for _, name, kind, value in properties(resources, version)]


def _but_devices(resources: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resources.items() if name != "devices"}


def device_properties(entries: list[dict[str, Any]] | None, version: int) -> list[Property]:
    """DevicePolicy and DeviceAllow. systemd's list only allows: a denial that takes a part off an
    earlier rule is left to the runtime's own rules, which hold beside it.
    """
    wanted = devices.rules(entries)
    if wanted[0][0]:
        return EVERY_DEVICE if version == 2 else EVERY_DEVICE_V1
    allowed: dict[str, set[str]] = {}
    for allow, kind, major, minor, access, _ in wanted[1:]:
        node = device_node(kind, major, minor)
        if allow:
            allowed.setdefault(node, set()).update(access)
        elif node in allowed:
            allowed[node] -= set(access)
    nodes = [
        (node, "".join(sorted(letters, key="rwm".index))) for node, letters in allowed.items() if letters
    ]
    return [
        ("DevicePolicy", ("s", "strict")),
        ("DeviceAllow", ("a(ss)", [])),
        ("DeviceAllow", ("a(ss)", nodes)),
    ]


def device_node(kind: str, major: int, minor: int) -> str:
    """As systemd.resource-control(5) writes it; systemd looks for no file below /dev/char."""
    name = "char" if kind == "c" else "block"
    if major == devices.ANY:
        return f"{name}-*"  # a minor number of any major: wider than what was asked
    return f"{name}-{major}" if minor == devices.ANY else f"/dev/{name}/{major}:{minor}"


def annotation_properties(annotations: dict[str, str]) -> list[Property]:
    """annotations "org.systemd.property.NAME": a value in GVariant's text format.

    NAME may end in Sec: then the value is in seconds and the property is NAME's USec.
    """
    from ocirt.cgroups.gvariant import parse

    found: list[Property] = []
    for key, text in annotations.items():
        name = key.removeprefix(ANNOTATION)
        if name == key:
            continue
        field = f"annotations.{key}"
        if not (name.isascii() and name.isalnum() and name[0].isupper()) or name in OURS:
            why = "is decided by cgroupsPath" if name in OURS else "is not the name of a property"
            raise SpecError(field, why)
        try:
            signature, value = parse(text)
        except ValueError as error:
            raise SpecError(field, f"{text!r}: {error}") from None
        if name.endswith("Sec") and not name.endswith("USec"):
            if signature not in "nqiuxtd":
                raise SpecError(field, f"{text!r} is not a number of seconds")
            name = f"{name.removesuffix('Sec')}USec"
            signature, value = "t", int(value * 1_000_000)
            if value < 0:
                raise SpecError(field, f"{text!r} is negative")
        found.append((name, (signature, value)))
    return found

"""What a config.json must fulfil beyond the shape that schemas/ describe.

RULES (whole documents) and PROCESS_RULES (a process alone, as for exec) are lists of
(name, function, section of runtime-spec). A function yields (field, reason) for each offence; it
may rely on the document being valid for its schema, where any optional member may be null.
Rules look at the document; where one has to ask the host (is this the network namespace we are
in?), a host that does not answer leaves the decision to the step that uses the field.
"""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Offences = Iterator[tuple[str, str]]
    Rule = tuple[str, Callable[[dict[str, Any]], Offences], str]

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
NO_ID = 4294967295  # (uid_t) -1: "leave as it is" for the kernel, never an id
MAX_MAPPINGS = 340  # UID_GID_MAP_MAX_EXTENTS
MAX_NODENAME = 64  # __NEW_UTS_LEN
MAX_IFNAME = 15  # IFNAMSIZ without its NUL
IPC_SYSCTLS = frozenset(
    f"kernel/{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)


def version(spec: dict[str, Any]) -> Offences:
    text = spec["ociVersion"]
    # runc and crun take more; config.md, Valid values, has us refuse what is not SemVer 2.0.0.
    rest, plus, build = text.partition("+")
    rest, dash, before = rest.partition("-")
    numbers, early = rest.split("."), before.split(".")
    if (
        not text.isascii()
        or len(numbers) != 3
        or not all(map(_is_number, numbers))
        or (dash and not all(_is_number(word) or _is_word(word) for word in early))
        or (plus and not all(_is_word(word) or word.isdigit() for word in build.split(".")))
    ):
        yield "ociVersion", f"{text!r} is not a semantic version: three numbers, as in 1.2.0"
    elif numbers[0] != "1":
        yield "ociVersion", f"{text!r} is not a version 1.x"


def _is_number(text: str) -> bool:
    return text.isdigit() and (text[0] != "0" or text == "0")


def _is_word(text: str) -> bool:
    """An identifier with a letter or hyphen in it; one of digits alone is a number."""
    return text.replace("-", "a").isalnum() and not text.isdigit()


def root(spec: dict[str, Any]) -> Offences:
    if not (spec.get("root") or {}).get("path"):
        yield "root.path", "is required"


def process_is_there(spec: dict[str, Any]) -> Offences:
    if not spec.get("process"):
        yield "process", "is required"


def program(process: dict[str, Any]) -> Offences:
    if not process.get("args"):
        yield "process.args", "must not be empty"
    if not process["cwd"].startswith("/"):
        yield "process.cwd", f"{process['cwd']!r} is not an absolute path"
    for i, variable in enumerate(process.get("env") or ()):
        if "=" not in variable[1:]:
            yield f"process.env[{i}]", f"{variable!r} is not NAME=VALUE"


def user(process: dict[str, Any]) -> Offences:
    identity = process.get("user") or {}
    for name in ("uid", "gid"):
        if identity.get(name) == NO_ID:
            yield f"process.user.{name}", f"{NO_ID} is not an id"
    for i, gid in enumerate(identity.get("additionalGids") or ()):
        if gid == NO_ID:
            yield f"process.user.additionalGids[{i}]", f"{NO_ID} is not an id"


def rlimits(process: dict[str, Any]) -> Offences:
    seen = set()
    for i, limit in enumerate(process.get("rlimits") or ()):
        kind = limit["type"]
        if kind in seen:
            yield f"process.rlimits[{i}]", f"{kind} occurs twice"
        seen.add(kind)
        if limit["soft"] > limit["hard"]:
            yield f"process.rlimits[{i}]", f"{kind}: soft {limit['soft']} is above hard {limit['hard']}"


def scheduler(process: dict[str, Any]) -> Offences:
    asked = process.get("scheduler")
    if not asked:
        return
    policy = asked["policy"]
    if asked.get("priority") and policy not in ("SCHED_FIFO", "SCHED_RR"):
        yield "process.scheduler.priority", f"is for SCHED_FIFO and SCHED_RR, not for {policy}"
    for name in ("runtime", "deadline", "period"):
        if asked.get(name) and policy != "SCHED_DEADLINE":
            yield f"process.scheduler.{name}", f"is for SCHED_DEADLINE, not for {policy}"


def namespaces(spec: dict[str, Any]) -> Offences:
    seen = set()
    for i, entry in enumerate((spec.get("linux") or {}).get("namespaces") or ()):
        kind = entry["type"]
        if kind in seen:
            yield f"linux.namespaces[{i}]", f"type {kind!r} occurs twice"
        seen.add(kind)
        path = entry.get("path")
        if path and not path.startswith("/"):
            yield f"linux.namespaces[{i}].path", f"{path!r} is not an absolute path"
        elif path and kind == "mount" and not is_private(spec, kind):
            reason = "is the mount namespace of the runtime: its root would become the container's"
            yield f"linux.namespaces[{i}].path", f"{path} {reason}"


def user_namespace(spec: dict[str, Any]) -> Offences:
    linux = spec.get("linux") or {}
    path = namespace_path(spec, "user")
    for name in ("uidMappings", "gidMappings"):
        mappings = linux.get(name)
        if mappings:
            if path is None:
                yield f"linux.{name}", "needs a user namespace in linux.namespaces"
            yield from id_map(f"linux.{name}", mappings)
        elif path == "":
            yield f"linux.{name}", "is required for a new user namespace"


def mounts(spec: dict[str, Any]) -> Offences:
    if spec.get("mounts") and not is_private(spec, "mount"):
        yield "mounts", "needs a mount namespace in linux.namespaces: they would appear on the host"
    for i, mount in enumerate(spec.get("mounts") or ()):
        if not mount["destination"]:
            yield f"mounts[{i}].destination", "must not be empty"
        elif not set(mount["destination"].split("/")) - {"", ".", ".."} and "remount" not in (
            mount.get("options") or ()
        ):
            yield f"mounts[{i}].destination", "is the root itself: it would be hidden, not seen"
        uids, gids = mount.get("uidMappings"), mount.get("gidMappings")
        if uids or gids:
            for name, mappings in (("uidMappings", uids), ("gidMappings", gids)):
                if mappings:
                    yield from id_map(f"mounts[{i}].{name}", mappings)
                else:
                    yield f"mounts[{i}].{name}", "is required when the other mapping is given"
        elif namespace_path(spec, "user") is None:
            for option in mount.get("options") or ():
                if option in ("idmap", "ridmap"):
                    yield f"mounts[{i}].options", f"{option} needs mappings or a user namespace"


def time_namespace(spec: dict[str, Any]) -> Offences:
    offsets = (spec.get("linux") or {}).get("timeOffsets")
    if not offsets:
        return
    path = namespace_path(spec, "time")
    if path is None:
        yield "linux.timeOffsets", "needs a time namespace in linux.namespaces"
    elif path:
        yield "linux.timeOffsets", "cannot be set for a time namespace that is joined"
    for clock in offsets:
        if clock not in ("monotonic", "boottime"):
            yield f"linux.timeOffsets.{clock}", "only the clocks monotonic and boottime have an offset"


def names(spec: dict[str, Any]) -> Offences:
    for field in ("hostname", "domainname"):
        name = spec.get(field)
        if name:
            if not is_private(spec, "uts"):
                yield field, "needs a uts namespace in linux.namespaces: it would change the host's"
            if len(name.encode()) > MAX_NODENAME:
                yield field, f"is longer than {MAX_NODENAME} bytes"


def sysctls(spec: dict[str, Any]) -> Offences:
    for key in (spec.get("linux") or {}).get("sysctl") or ():
        path = sysctl_path(key)
        reason = "is not namespaced: it would change the host" if path else "is not the name of a sysctl"
        if path in IPC_SYSCTLS or path.startswith("fs/mqueue/"):
            reason = "" if is_private(spec, "ipc") else "needs an ipc namespace that is not the host's"
        elif path.startswith("net/"):
            reason = "" if is_private(spec, "network") else "needs a network namespace that is not the host's"
        elif path.startswith("user/"):
            reason = "" if is_private(spec, "user") else "needs a user namespace that is not the host's"
        elif path == "kernel/domainname" and is_private(spec, "uts"):
            reason = ""
        elif path == "kernel/hostname":
            reason = "is set by the field hostname"
        if reason:
            yield f"linux.sysctl[{key}]", reason


def protected_paths(spec: dict[str, Any]) -> Offences:
    linux = spec.get("linux") or {}
    for field in ("maskedPaths", "readonlyPaths"):
        paths = linux.get(field)
        if paths:
            if not is_private(spec, "mount"):
                yield f"linux.{field}", "needs a mount namespace in linux.namespaces"
            for i, path in enumerate(paths if field == "maskedPaths" else ()):
                if path and not set(path.split("/")) - {"", "."}:
                    yield f"linux.{field}[{i}]", "is the root itself, which cannot be hidden"
            if "" in paths:
                yield f"linux.{field}[{paths.index('')}]", "must not be empty"


def propagation(spec: dict[str, Any]) -> Offences:
    if (spec.get("linux") or {}).get("rootfsPropagation") and not is_private(spec, "mount"):
        yield "linux.rootfsPropagation", "needs a mount namespace in linux.namespaces"


def devices(spec: dict[str, Any]) -> Offences:
    linux = spec.get("linux") or {}
    if linux.get("devices") and not is_private(spec, "mount"):
        yield "linux.devices", "needs a mount namespace in linux.namespaces"
    for i, device in enumerate(linux.get("devices") or ()):
        if not device["path"]:
            yield f"linux.devices[{i}].path", "must not be empty"
        if device["type"] != "p":
            for name in ("major", "minor"):
                if device.get(name) is None:
                    yield f"linux.devices[{i}].{name}", "is required unless type is p"
    for i, entry in enumerate((linux.get("resources") or {}).get("devices") or ()):
        if not entry.get("access"):
            yield f"linux.resources.devices[{i}].access", "must not be empty"


def resources(spec: dict[str, Any]) -> Offences:
    asked = (spec.get("linux") or {}).get("resources") or {}
    cpu = asked.get("cpu") or {}
    quota, burst = cpu.get("quota"), cpu.get("burst")
    if quota and burst and 0 < quota < burst:
        yield "linux.resources.cpu.burst", f"{burst} is above the quota {quota}"
    for i, device in enumerate((asked.get("blockIO") or {}).get("weightDevice") or ()):
        if device.get("weight") is None and device.get("leafWeight") is None:
            yield f"linux.resources.blockIO.weightDevice[{i}]", "needs weight or leafWeight"
    for name, limits in (asked.get("rdma") or {}).items():
        if limits.get("hcaHandles") is None and limits.get("hcaObjects") is None:
            yield f"linux.resources.rdma.{name}", "needs hcaHandles or hcaObjects"


def cgroups_path(spec: dict[str, Any]) -> Offences:
    path = (spec.get("linux") or {}).get("cgroupsPath")
    if path and ".." in path.split("/"):
        yield "linux.cgroupsPath", f"{path!r} leaves its place by '..'"


def net_devices(spec: dict[str, Any]) -> Offences:
    asked = (spec.get("linux") or {}).get("netDevices")
    if not asked:
        return
    if not is_private(spec, "network"):
        yield "linux.netDevices", "needs a network namespace that is not the host's"
    inside = set()
    for host_name, device in asked.items():
        name = device.get("name") or host_name
        for one in {host_name, name}:
            bad = set(one) & set("/: \t\n\v\f\r")
            if bad or one in ("", ".", "..") or len(one.encode()) > MAX_IFNAME:
                yield f"linux.netDevices.{host_name}", f"{one!r} is not the name of a network device"
        if name in inside and "%d" not in name:
            yield f"linux.netDevices.{host_name}", f"the name {name!r} occurs twice"
        inside.add(name)


def seccomp(spec: dict[str, Any]) -> Offences:
    profile = (spec.get("linux") or {}).get("seccomp")
    if not profile:
        return
    if profile["defaultAction"] == "SCMP_ACT_NOTIFY":
        yield "linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY would stop the runtime itself"
    for i, entry in enumerate(profile.get("syscalls") or ()):
        if entry["action"] == "SCMP_ACT_NOTIFY" and not profile.get("listenerPath"):
            yield f"linux.seccomp.syscalls[{i}].action", "SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath"


# What the kernel has in its root directory or in that of a class: no class can have such a name.
RESCTRL_NAMES = (
    *("info", "mon_groups", "mon_data", "tasks", "cpus", "cpus_list", "schemata", "mode", "size"),
    *("ctrl_hw_id", "mon_hw_id", "mba_MBps_event"),
)


def intel_rdt(spec: dict[str, Any]) -> Offences:
    asked = (spec.get("linux") or {}).get("intelRdt")
    if not asked:
        return
    group = asked.get("closID") or ""
    if group in (".", "..") or (len(group) > 1 and "/" in group):
        yield "linux.intelRdt.closID", f"{group!r} is not the name of a directory"
    if group in RESCTRL_NAMES:
        yield "linux.intelRdt.closID", f"{group!r} is a name of resctrl's own"
    lines = [
        ("closID", group),
        ("l3CacheSchema", asked.get("l3CacheSchema")),
        ("memBwSchema", asked.get("memBwSchema")),
    ]
    lines += [(f"schemata[{i}]", line) for i, line in enumerate(asked.get("schemata") or ())]
    for name, line in lines:
        if line and "\n" in line:
            yield f"linux.intelRdt.{name}", "contains a newline"
    if (asked.get("memBwSchema") or "MB:")[:3] != "MB:":
        yield "linux.intelRdt.memBwSchema", "must start with MB:"


def memory_policy(spec: dict[str, Any]) -> Offences:
    asked = (spec.get("linux") or {}).get("memoryPolicy")
    if not asked:
        return
    mode = asked["mode"]
    if mode in ("MPOL_DEFAULT", "MPOL_LOCAL"):
        if asked.get("nodes"):
            yield "linux.memoryPolicy.nodes", f"{mode} takes no nodes"
    elif mode != "MPOL_PREFERRED" and not asked.get("nodes"):
        yield "linux.memoryPolicy.nodes", f"{mode} needs at least one node"


def hooks(spec: dict[str, Any]) -> Offences:
    asked = spec.get("hooks") or {}
    for kind in HOOKS:
        for i, hook in enumerate(asked.get(kind) or ()):
            if not hook["path"].startswith("/"):
                yield f"hooks.{kind}[{i}].path", f"{hook['path']!r} is not an absolute path"
            timeout = hook.get("timeout")
            if timeout is not None and timeout <= 0:
                yield f"hooks.{kind}[{i}].timeout", f"{timeout} is not greater than zero"


PROCESS_RULES: tuple[Rule, ...] = (
    ("program", program, "config.md, Process"),
    ("user", user, "config.md, User"),
    ("rlimits", rlimits, "config.md, POSIX process"),
    ("scheduler", scheduler, "config.md, Linux Process"),
)

RULES: tuple[Rule, ...] = (
    ("version", version, "config.md, Specification version"),
    ("root", root, "config.md, Root"),
    ("process", process_is_there, "config.md, Process"),
    ("namespaces", namespaces, "config-linux.md, Namespaces"),
    ("user namespace", user_namespace, "config-linux.md, User namespace mappings"),
    ("time namespace", time_namespace, "config-linux.md, Offset for Time Namespace"),
    ("names", names, "config.md, Hostname"),
    ("mounts", mounts, "config.md, Mounts"),
    ("sysctl", sysctls, "config-linux.md, Sysctl"),
    ("protected paths", protected_paths, "config-linux.md, Masked Paths"),
    ("propagation", propagation, "config-linux.md, Rootfs Mount Propagation"),
    ("devices", devices, "config-linux.md, Devices"),
    ("resources", resources, "config-linux.md, Control groups"),
    ("cgroups path", cgroups_path, "config-linux.md, Cgroups Path"),
    ("network devices", net_devices, "config-linux.md, Network Devices"),
    ("seccomp", seccomp, "config-linux.md, Seccomp"),
    ("intelRdt", intel_rdt, "config-linux.md, IntelRdt"),
    ("memory policy", memory_policy, "config-linux.md, Memory policy"),
    ("hooks", hooks, "config.md, POSIX-platform Hooks"),
)


def namespace_path(spec: dict[str, Any], kind: str) -> str | None:
    """Path of the namespace to join; "" for a new one; None for the one the runtime is in."""
    for entry in (spec.get("linux") or {}).get("namespaces") or ():
        if entry["type"] == kind:
            return entry.get("path") or ""
    return None


def is_private(spec: dict[str, Any], kind: str) -> bool:
    """Will the container be in a namespace other than the one the runtime is in?"""
    path = namespace_path(spec, kind)
    if not path:
        return path is not None
    try:
        theirs = posix.stat(path)
        ours = posix.stat(f"/proc/self/ns/{ {'network': 'net', 'mount': 'mnt'}.get(kind, kind) }")
    except OSError:
        return True  # joining it will say what is wrong with the path
    return (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino)


def sysctl_path(key: str) -> str:
    """Path below /proc/sys for either spelling of a sysctl's name; "" if it is not a name.

    As in sysctl.d(5), the first of '.' and '/' that occurs is the separator, and the other one
    stands for itself: net.ipv4.conf.eth0/7.forwarding is net/ipv4/conf/eth0.7/forwarding.
    """
    dot, slash = key.find("."), key.find("/")
    path = key if slash >= 0 and (dot < 0 or slash < dot) else key.translate({46: "/", 47: "."})
    return "" if {"", ".", ".."} & set(path.split("/")) else path


def id_map(field: str, mappings: list[dict[str, int]]) -> Offences:
    """What the kernel would refuse with a bare EINVAL."""
    if len(mappings) > MAX_MAPPINGS:
        yield field, f"has {len(mappings)} entries, the kernel takes {MAX_MAPPINGS}"
    for i, entry in enumerate(mappings):
        if entry["size"] == 0:
            yield f"{field}[{i}].size", "must not be 0"
    for side in ("containerID", "hostID"):
        end, last = 0, -1
        for first, i in sorted((entry[side], i) for i, entry in enumerate(mappings)):
            if last >= 0 and first < end:
                yield f"{field}[{i}].{side}", f"overlaps with entry {last}"
            if first + mappings[i]["size"] > NO_ID:
                yield f"{field}[{i}].{side}", f"the range ends beyond the last id, {NO_ID - 1}"
            end, last = max(end, first + mappings[i]["size"]), i

"""What a config.json says that is allowed and probably not meant: unknown, dead, contradictory.

For `ocirt validate` and `ocirt plan`; nothing here stops a container.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocirt.spec import wording
from ocirt.spec.rules import is_private, namespace_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Remarks = Iterator[tuple[str, str]]

# Pairs of mount options of which the last one wins.
OPPOSITES = (
    ("ro", "rw"),
    ("suid", "nosuid"),
    ("dev", "nodev"),
    ("exec", "noexec"),
    ("sync", "async"),
    ("symfollow", "nosymfollow"),
    ("diratime", "nodiratime"),
    ("rro", "rrw"),
    ("rsuid", "rnosuid"),
    ("rdev", "rnodev"),
    ("rexec", "rnoexec"),
    ("rdiratime", "rnodiratime"),
    ("rsymfollow", "rnosymfollow"),
)
PROPAGATION = {"private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"}
ERRNO_ACTIONS = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")


def warnings(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """(field, remark) for a document that passed `check`, in its order."""
    found = list(unknown_members(spec))
    for look in (deprecated, process, mounts, empty_annotations, protected_paths, seccomp, memory, no_effect):
        found += look(spec)
    return found


def unknown_members(spec: dict[str, Any], schema: str = "config") -> Remarks:
    """Members that the schema does not name: a typo, or younger than runtime-spec 1.3.0."""
    whole = wording.schema(schema)
    yield from _unknown(spec, whole, whole["$defs"], "")


def _unknown(value: Any, schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Remarks:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if isinstance(value, list) and "items" in schema:
        for i, element in enumerate(value):
            yield from _unknown(element, schema["items"], definitions, f"{path}[{i}]")
    elif isinstance(value, dict) and ("properties" in schema or "additionalProperties" in schema):
        named = schema.get("properties", {})
        others = schema.get("additionalProperties")
        for name, member in value.items():
            place = f"{path}.{name}" if path else name
            if name in named:
                yield from _unknown(member, named[name], definitions, place)
            elif others is not None:
                yield from _unknown(member, others, definitions, place)
            else:
                yield place, f"is unknown and ignored{_meant(name, list(named))}"


def _meant(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    lower = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), lower, n=1, cutoff=0.75)
    return f"; is {lower[near[0]]} meant?" if near else ""


def deprecated(spec: dict[str, Any]) -> Remarks:
    if (spec.get("hooks") or {}).get("prestart"):
        yield "hooks.prestart", "is deprecated: createRuntime, createContainer and startContainer replace it"
    rdt = (spec.get("linux") or {}).get("intelRdt") or {}
    for name in ("enableCMT", "enableMBM"):
        if rdt.get(name) is not None:
            yield f"linux.intelRdt.{name}", "has no effect: enableMonitoring replaced it in runtime-spec 1.3"
    for name in ("kernel", "kernelTCP"):
        if _resources(spec, "memory").get(name) is not None:
            yield f"linux.resources.memory.{name}", "is deprecated, and unknown to cgroup v2"
    for section in ("windows", "solaris", "vm", "zos", "freebsd"):
        if spec.get(section) is not None:
            yield section, "is for another platform and ignored"


def process(spec: dict[str, Any]) -> Remarks:
    asked = spec.get("process") or {}
    if asked.get("consoleSize") and not asked.get("terminal"):
        yield "process.consoleSize", "has no effect without process.terminal"
    if asked.get("commandLine"):
        yield "process.commandLine", "is for Windows and ignored"
    if asked.get("execCPUAffinity"):
        yield "process.execCPUAffinity", "does not apply to the container's own process, only to exec"
    seen: dict[str, int] = {}
    for i, variable in enumerate(asked.get("env") or ()):
        name = variable.partition("=")[0]
        if name in seen:
            yield f"process.env[{i}]", f"{name} occurs twice; the value of env[{seen[name]}] is lost"
        seen[name] = i
    sets = {name: set(values or ()) for name, values in (asked.get("capabilities") or {}).items()}
    for larger, smaller in (
        ("permitted", "effective"),
        ("bounding", "inheritable"),
        ("permitted", "ambient"),
        ("inheritable", "ambient"),
    ):
        missing = sorted(sets.get(smaller, set()) - sets.get(larger, set()))
        if missing:
            yield f"process.capabilities.{smaller}", f"not in {larger}, not granted: {', '.join(missing)}"


def mounts(spec: dict[str, Any]) -> Remarks:
    seen: dict[str, int] = {}
    for i, mount in enumerate(spec.get("mounts") or ()):
        destination = mount["destination"]
        if not destination.startswith("/"):
            yield (
                f"mounts[{i}].destination",
                f"{destination!r} is relative (deprecated); taken from /",
            )
        options = mount.get("options") or []
        if "remount" not in options:
            clean = "/" + "/".join(part for part in destination.split("/") if part not in ("", "."))
            for earlier, j in seen.items():
                if earlier == clean or earlier.startswith(clean + "/"):
                    yield f"mounts[{i}]", f"covers mounts[{j}] ({earlier})"
            seen[clean] = i
        for one, other in OPPOSITES:
            if one in options and other in options:
                last = max(one, other, key=lambda option: len(options) - 1 - options[::-1].index(option))
                yield f"mounts[{i}].options", f"{one} and {other} contradict each other; {last} wins"
        modes = [option for option in options if option in PROPAGATION]
        if len(set(modes)) > 1:
            yield f"mounts[{i}].options", f"{', '.join(modes)} contradict each other; {modes[-1]} wins"
        if mount.get("type") == "bind" and "bind" not in options and "rbind" not in options:
            yield f"mounts[{i}].type", "bind as a type does not make a bind mount; the options do"
        mapped = mount.get("uidMappings")
        if mapped and "idmap" not in options and "ridmap" not in options:
            yield f"mounts[{i}].uidMappings", "should come with the option idmap or ridmap"


def empty_annotations(spec: dict[str, Any]) -> Remarks:
    if "" in (spec.get("annotations") or {}):
        yield "annotations", "a key is empty"


def protected_paths(spec: dict[str, Any]) -> Remarks:
    linux = spec.get("linux") or {}
    masked = linux.get("maskedPaths") or []
    for field in ("maskedPaths", "readonlyPaths"):
        for i, path in enumerate(linux.get(field) or ()):
            if not path.startswith("/"):
                yield f"linux.{field}[{i}]", f"{path!r} is relative; taken from /"
            elif field == "readonlyPaths" and path in masked:
                yield f"linux.{field}[{i}]", f"{path} is masked anyway"
    for i, device in enumerate(linux.get("devices") or ()):
        if not device["path"].startswith("/"):
            yield f"linux.devices[{i}].path", f"{device['path']!r} is relative; taken from /"


def seccomp(spec: dict[str, Any]) -> Remarks:
    profile = (spec.get("linux") or {}).get("seccomp")
    if not profile:
        return
    default = profile["defaultAction"]
    if profile.get("defaultErrnoRet") is not None and default not in ERRNO_ACTIONS:
        yield "linux.seccomp.defaultErrnoRet", f"{default} returns no errno"
    notifies = False
    for i, entry in enumerate(profile.get("syscalls") or ()):
        action = entry["action"]
        notifies = notifies or action == "SCMP_ACT_NOTIFY"
        if not entry["names"]:
            yield f"linux.seccomp.syscalls[{i}].names", "is empty: the entry has no effect"
        if entry.get("errnoRet") is not None and action not in ERRNO_ACTIONS:
            yield f"linux.seccomp.syscalls[{i}].errnoRet", f"{action} returns no errno"
        if action == default and entry.get("errnoRet") == profile.get("defaultErrnoRet"):
            yield f"linux.seccomp.syscalls[{i}]", f"{action} is the default action anyway"
    if profile.get("listenerPath") and not notifies:
        yield "linux.seccomp.listenerPath", "has no effect without SCMP_ACT_NOTIFY"
    if profile.get("listenerMetadata") and not profile.get("listenerPath"):
        yield "linux.seccomp.listenerMetadata", "must not be set without listenerPath"


def memory(spec: dict[str, Any]) -> Remarks:
    asked = _resources(spec, "memory")
    limit, reservation = asked.get("limit"), asked.get("reservation")
    if limit and reservation and 0 < limit < reservation:
        yield "linux.resources.memory.reservation", f"{reservation} is above the limit {limit}"
    if asked.get("disableOOMKiller") and not (limit and limit > 0):
        yield "linux.resources.memory.disableOOMKiller", "without a limit, a leak can stall the host"


def no_effect(spec: dict[str, Any]) -> Remarks:
    if namespace_path(spec, "user") and (spec.get("linux") or {}).get("uidMappings"):
        yield "linux.uidMappings", "has no effect: the user namespace that is joined has its own"
    for kind, name in (("network", "network"), ("pid", "pid"), ("ipc", "ipc"), ("uts", "uts")):
        if namespace_path(spec, kind) and not is_private(spec, kind):
            yield "linux.namespaces", f"the {name} namespace to join is the runtime's own"
    root = (spec.get("root") or {}).get("readonly")
    if root and namespace_path(spec, "mount") is None:
        yield "root.readonly", "cannot be done without a mount namespace"


def _resources(spec: dict[str, Any], controller: str) -> dict[str, Any]:
    return ((spec.get("linux") or {}).get("resources") or {}).get(controller) or {}

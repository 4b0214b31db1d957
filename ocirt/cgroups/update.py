"""update: new limits merged into the old ones, which files that changes, and the way back."""

from __future__ import annotations

from ocirt.cgroups.resources import FIELD, INFINITY, TABLE, writes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ocirt.cgroups.resources import Write

    Undo = list[tuple[str, str, str]]  # path, what was there, what was written

# Elsewhere 0 and "" say nothing, as engines send them for what is to stay (as runc has it).
ZERO_COUNTS = (
    ("cpu", "idle"),
    ("cpu", "burst"),
    ("memory", "swappiness"),
    ("memory", "disableOOMKiller"),
    ("memory", "useHierarchy"),
    ("memory", "checkBeforeUpdate"),
    ("pids", "limit"),
)
BY_NAME = ("rdma", "unified")  # objects whose keys are devices or files
IO_MAX = "rbps=max wbps=max riops=max wiops=max"


def merge(old: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """linux.resources with the limits that asked names; what it leaves out stays as it is."""
    new = dict(old)
    for section, given in asked.items():
        if not given:
            continue
        if section not in TABLE:
            new[section] = given  # devices: a list of rules has an order
        elif type(given) is list:
            new[section] = _merge_lists(old.get(section), given)
        else:
            new[section] = _merge_section(section, old.get(section) or {}, given)
    if (asked.get("pids") or {}).get("limit") == 0:
        new["pids"]["limit"] = 1  # the same, also in a document of a version where 0 is no limit
    memory = asked.get("memory") or {}
    if memory.get("limit") == -1 and not memory.get("swap"):
        new["memory"]["swap"] = -1  # swap counts memory as well: it cannot be less
    return new


def _merge_section(section: str, old: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    new = dict(old)
    for name, value in given.items():
        if not says_something(section, name, value):
            continue
        if type(value) is list:
            new[name] = _merge_lists(old.get(name), value)
        elif section == "rdma":
            new[name] = {**(old.get(name) or {}), **value}
        else:
            new[name] = value
    return new


def _merge_lists(old: list[dict[str, Any]] | None, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries about the same device, page size or interface take the older one's place."""
    found = {_subject(entry): entry for entry in old or ()}
    for entry in given:
        found[_subject(entry)] = {**found.get(_subject(entry), {}), **entry}
    return list(found.values())


def _subject(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry.get(key) for key in ("major", "minor", "pageSize", "name"))


def says_something(section: str, name: str, value: Any) -> bool:
    if value is None:
        return False
    return bool(value) or section in BY_NAME or (section, name) in ZERO_COUNTS


def changed(old: dict[str, Any], new: dict[str, Any], asked: dict[str, Any], version: int) -> list[Write]:
    """What to write: what was asked for, and what follows from it (the part of swap above memory)."""
    before = writes(old, version)
    fields = asked_fields(asked)
    if f"{FIELD}.blockIO.weight" in fields:
        fields.append(f"{FIELD}.blockIO.weightDevice")  # BFQ gives every device the new weight
    found = [row for row in writes(new, version) if row not in before or _is_about(row[0], fields)]
    if (old.get("memory") or {}).get("disableOOMKiller") and not new["memory"]["disableOOMKiller"]:
        # Only an update says so: for a new container it is what the kernel does anyway.
        found.append((f"{FIELD}.memory.disableOOMKiller", "memory.oom_control", "0"))
    return found


def asked_fields(asked: dict[str, Any]) -> list[str]:
    fields = []
    for section, given in asked.items():
        if type(given) is dict:
            names = [name for name, value in given.items() if says_something(section, name, value)]
            fields += [f"{FIELD}.{section}.{name}" for name in names]
        elif given:
            fields.append(f"{FIELD}.{section}")
    return fields


def _is_about(field: str, fields: Iterable[str]) -> bool:
    return any(field == one or field.startswith(f"{one}.") for one in fields)


# systemd


def changed_properties(
    old: list[tuple[str, str, str, Any]], new: list[tuple[str, str, str, Any]], asked: dict[str, Any]
) -> list[tuple[str, str, str, Any]]:
    """The rows of resources.properties that an update has to tell."""
    fields = asked_fields(asked)
    return [row for row in new if row not in old or _is_about(row[0], fields)]


def former_properties(
    old: list[tuple[str, str, str, Any]], told: list[tuple[str, str, str, Any]]
) -> list[tuple[str, str, str, Any]]:
    """What takes told back: what was there, or what systemd takes for not set."""
    before = {name: (field, name, kind, value) for field, name, kind, value in old}
    unset = {"t": INFINITY, "ay": b"", "a(st)": []}
    return [before.get(name, (field, name, kind, unset[kind])) for field, name, kind, _ in told]


# The way back


def roll_back(undo: Undo) -> list[str]:
    """Write back what was there, the last first; the files that refuse it."""
    from ocirt.cgroups.files import write_file

    failed = []
    order = list(reversed(undo))
    order.sort(key=lambda row: "weight_device" in row[0])  # last: the weight of all takes them away
    for path, before, written in order:
        text = former_text(path.rpartition("/")[2], before, written)
        try:
            if text:
                write_file(path, text)
        except OSError:
            failed.append(path)
    return failed


def former_text(name: str, before: str, written: str) -> str:
    """What to write into a file to have its content of before; only the lines that were changed."""
    if name == "memory.oom_control":
        return before.splitlines()[0].split()[1]
    lines = {line.split()[0]: line for line in before.splitlines() if " " in line}
    result = []
    for line in written.splitlines():
        key, blank, _ = line.partition(" ")
        if not blank or not (":" in key or key in lines):
            return before  # one value, not one for each key
        result.append(lines.get(key) or f"{key} {_nothing(name)}")
    return "\n".join(result)


def _nothing(name: str) -> str:
    """How a file is told that a device has no limit of its own."""
    if name == "io.max":
        return IO_MAX
    return "default" if name == "io.weight" else "0"

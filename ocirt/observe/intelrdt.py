"""linux.intelRdt read back: the class that a live process is in, and its schemata."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ocirt.verify import Finding, Target

FIELD = "linux.intelRdt"


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    root = _root()
    if not root:
        return [(FIELD, "a class of service", "no resctrl file system is mounted")]
    return list(_findings(target, spec["linux"]["intelRdt"], root))


def _findings(target: Target, asked: dict[str, Any], root: str) -> Iterator[Finding]:
    group = next((path for path in _groups(root) if _has(path, target.pid)), "")
    if not group:
        yield FIELD, "a class of service", "process is in none"
        return
    name = "/" if group == root else os.path.basename(group)
    if asked.get("closID"):
        yield f"{FIELD}.closID", asked["closID"], name
    else:
        yield f"{FIELD}.closID", "not the default one", "/" if group == root else "not the default one"
    shown = dict(_domains(line) for line in _read(f"{group}/schemata").splitlines())
    fields = [(part, asked.get(part)) for part in ("l3CacheSchema", "memBwSchema")]
    fields += [(f"schemata[{i}]", line) for i, line in enumerate(asked.get("schemata") or ())]
    for part, line in fields:
        if not line:
            continue
        resource, wanted = _domains(line)
        now = shown.get(resource, {})
        yield (
            f"{FIELD}.{part}",
            _words(resource, wanted),
            _words(resource, {key: now.get(key, "none") for key in wanted}),
        )
    if asked.get("enableMonitoring"):
        monitors = f"{group}/mon_groups"
        names = os.listdir(monitors) if os.path.isdir(monitors) else []
        is_counted = any(_has(f"{monitors}/{each}", target.pid) for each in names)
        yield f"{FIELD}.enableMonitoring", "counted", "counted" if is_counted else "not counted"


def _root() -> str:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if after.split(" ", 1)[0] == "resctrl":
                return before.split()[4]
    return ""


def _groups(root: str) -> Iterator[str]:
    yield from (entry.path for entry in os.scandir(root) if os.path.exists(f"{entry.path}/schemata"))
    yield root


def _has(group: str, pid: int) -> bool:
    return str(pid) in _read(f"{group}/tasks").split()


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def _domains(line: str) -> tuple[str, dict[str, str]]:
    """Resource, and its share by domain: masks without leading zeros."""
    resource, _, rest = line.strip().partition(":")
    pairs = (word.strip().partition("=") for word in rest.split(";") if word.strip())
    return resource.strip(), {
        key.strip(): value.strip().lower().lstrip("0") or "0" for key, _, value in pairs
    }


def _words(resource: str, shares: dict[str, str]) -> str:
    return f"{resource}:{';'.join(f'{key}={value}' for key, value in shares.items())}"

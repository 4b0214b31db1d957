"""What tests may leave behind: found by comparing the machine before and after.

Elsewhere than in CI other work may go on beside the tests: there only what carries the names of
test containers counts.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.lib.runtime import PREFIX

Snapshot = dict[str, set[str]]


def snapshot() -> Snapshot:
    return {
        "cgroup": _cgroups(),
        "mount": _mounts(),
        "process": _processes(),
        "network namespace": set(_names("/run/netns") + _names("/var/run/netns")),
        "file": {
            f"{directory}/{name}"
            for directory in ("/run/ocirt", "/run", "/tmp")
            for name in _names(directory)
            if directory == "/run/ocirt" or name.startswith(("ocirt-test", PREFIX))
        },
    }


def left_since(before: Snapshot) -> list[str]:
    after = snapshot()
    left = [f"{kind}: {name}" for kind in after for name in sorted(after[kind] - before[kind])]
    if os.environ.get("CI"):
        return left
    return [line for line in left if f"{PREFIX}-{os.getpid()}-" in line]


def cgroups_named(name: str) -> list[str]:
    """The groups of a container, in all hierarchies."""
    return [path for path in _cgroups() if path.endswith(f"/{name}")]


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _cgroups() -> set[str]:
    return {directory for directory, _, _ in os.walk("/sys/fs/cgroup") if "/" in directory}


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[4] for line in lines}


def _processes() -> set[str]:
    """Runtimes, inits and what runs in a cgroup of a test container."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            groups = Path(f"/proc/{pid}/cgroup").read_text()
        except OSError:
            continue
        if not words:
            continue  # a zombie that pid 1 has not reaped yet
        if name in ("ocirt", "ocirt-init") or PREFIX in groups or f" {PREFIX}-" in words:
            group = next((word for word in groups.split("/") if word.startswith(PREFIX)), "")
            found.add(f"{pid} {name} {group} {words[:80]}")
    return found

"""delete --force of a container whose state.json cannot be read.

What is known then is config.json, and whether the groups it names were found empty or made: only
then is whoever is inside the container's. Without them there is nothing but the directory.
"""

from __future__ import annotations

from ocirt import kernel
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cgroups.manager import Manager
    from ocirt.state import StateDir


def delete(directory: StateDir) -> None:
    """Kill what is in the container's groups, remove them and the directory, which is locked."""
    manager = _manager(directory)
    if manager is not None:
        if directory.claimed():
            manager.kill_all(kernel.SIGKILL)
            manager.destroy()
        else:
            manager.remove_empty()
    directory.remove()


def _manager(directory: StateDir) -> Manager | None:
    from ocirt.cgroups.apply import choose
    from ocirt.context import Context
    from ocirt.host import Host
    from ocirt.options import CreateOptions
    from ocirt.plan import Plan
    from ocirt.spec import check
    from ocirt.spec.jsontext import loads

    try:
        spec: dict[str, Any] = loads(directory.read("config.json"), "config.json")
        check.check(spec)
        path = (spec.get("linux") or {}).get("cgroupsPath") or ""
        # Engines write SLICE:PREFIX:NAME when they have asked for systemd's groups.
        options = CreateOptions(systemd_cgroup=path.count(":") == 2 and "/" not in path)
        ctx = Context(
            spec, Plan(), bundle="", container_id=directory.container_id, options=options, host=Host()
        )
        return choose(ctx)
    except (OcirtError, OSError):
        return None  # nothing is known

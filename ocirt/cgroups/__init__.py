"""The container's cgroups: choose a manager for a new container, or load a saved one.

v1 (also hybrid) and v2 work on the cgroup file system; systemd asks the service manager for a
scope. resources is the table of limits, devices the device rules, apply the link to the plan.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cgroups.manager import Manager


def load(saved: dict[str, Any]) -> Manager:
    """The manager that save() described."""
    if saved["driver"] == "systemd":
        from ocirt.cgroups.systemd import load as load_scope

        return load_scope(saved)
    if saved["driver"] == "none":
        from ocirt.cgroups.manager import NoCgroup

        return NoCgroup(saved.get("reason", ""))
    if saved["version"] == 2:
        from ocirt.cgroups.v2 import V2Manager

        return V2Manager(saved["paths"][""], saved.get("mount", "/sys/fs/cgroup"))
    from ocirt.cgroups.v1 import V1Manager

    manager = V1Manager(saved["paths"])
    manager.unified_mount = saved.get("mount", "")
    return manager

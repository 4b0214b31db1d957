"""update: other limits for a container that runs."""

from __future__ import annotations

from ocirt import state
from ocirt.cgroups.resources import read_as_written
from ocirt.cgroups.update import merge
from ocirt.errors import WrongState
from ocirt.spec import check as checks
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.running import Running

LOCK_WAIT = 10.0  # seconds for another command that is changing the container


def update(
    container: Running,
    asked: dict[str, Any],
    *,
    check: bool = False,
    intel_rdt: dict[str, Any] | None = None,
) -> None:
    """Put linux.resources with the limits of asked in force, and keep them for what comes later.

    check: refuse a memory limit below what is in use. intel_rdt: other schemata of linux.intelRdt.
    Raises SpecError, WrongState, Unsupported, CgroupError; then the old limits are in force.
    """
    with state.open_state(container.root, container.id, patience=LOCK_WAIT) as directory:
        container.saved = directory.load()
        container._spec = None  # another update may have been faster
        status = container.status
        if status in ("stopped", "creating"):
            raise WrongState(status, "running", "container not running")
        spec = read_as_written(container.spec)
        linux = spec.get("linux") or {}
        checks.check_shape({**spec, "linux": {**linux, "resources": asked}}, "config", "resources")
        old = linux.get("resources") or {}
        new = merge(old, asked)
        spec = {**spec, "linux": {**linux, "resources": new}}
        if intel_rdt:
            spec["linux"]["intelRdt"] = {**(linux.get("intelRdt") or {}), **intel_rdt}
        checks.check(spec, "resources")
        manager = container.manager()
        back = _update_rdt(container, intel_rdt) if intel_rdt else None
        try:
            manager.update(old, new, asked, check=check)
        except BaseException:
            if back is not None:
                back()
            raise
        directory.write("config.json", dumps(spec).encode("utf-8", "surrogateescape"))
        container._spec = spec


def _update_rdt(container: Running, asked: dict[str, Any]) -> Callable[[], None]:
    from ocirt import intelrdt

    return intelrdt.update(container.saved.get("intelRdt"), asked)

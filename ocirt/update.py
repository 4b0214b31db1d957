"""update: other limits for a container that runs."""

from __future__ import annotations

from ocirt import state
from ocirt.cgroups.resources import read_as_written
from ocirt.cgroups.update import merge
from ocirt.errors import WrongState, taken_back
from ocirt.spec import check as checks
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.running import Running
    from ocirt.state import StateDir

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
        back = _update_rdt(container, directory, intel_rdt) if intel_rdt else None
        try:
            manager.update(old, new, asked, check=check)
        except BaseException as error:
            if back is not None:
                taken_back(error, back)
            raise
        directory.write("config.json", dumps(spec).encode("utf-8", "surrogateescape"))
        container._spec = spec


def _update_rdt(container: Running, directory: StateDir, asked: dict[str, Any]) -> Callable[[], None]:
    """Other schemata, if need be in a new class. What undoes it.

    The class is in the state before it is made, and until all are in it, with how far it came: of an
    update that is killed, delete or the next update removes what was made.
    """
    from ocirt import intelrdt

    def save(changed: dict[str, Any]) -> None:
        container.saved = {name: value for name, value in container.saved.items() if name != "intelRdt"}
        container.saved.update(changed)
        directory.save(container.saved)

    if saved := container.saved.get("intelRdt"):
        if not saved.get("begun"):
            return intelrdt.update(saved, asked)
        intelrdt.remove(saved["remove"], only_unused=saved["begun"] == intelrdt.ASKED)
        save({})
    group = intelrdt.new_class(container.id, asked)
    is_made = False

    def back() -> None:
        if is_made:
            save({"intelRdt": {**group.save(), "begun": intelrdt.MADE}})
            intelrdt.remove(group.path)  # who is in it falls back to the default class
        save({})

    try:
        save({"intelRdt": {**group.save(), "begun": intelrdt.ASKED}})
        intelrdt.make(group)
        is_made = True
        save({"intelRdt": {**group.save(), "begun": intelrdt.MADE}})
        intelrdt.fill(group, container.pids)
        save({"intelRdt": group.save()})
    except BaseException as error:
        taken_back(error, back)
        raise
    return back

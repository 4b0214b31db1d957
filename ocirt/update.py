"""update: other limits for a container that runs."""

from __future__ import annotations

import posix

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

    The class is in the state before it is made, as one that is only begun until all are in it: then
    delete removes it, exec does without, and the next update starts anew.
    """
    from ocirt import intelrdt

    if saved := container.saved.get("intelRdt"):
        if not saved.get("begun"):
            return intelrdt.update(saved, asked)
        intelrdt.remove(saved["remove"])
    group = intelrdt.new_class(container.id, asked)
    container.saved["intelRdt"] = {**group.save(), "begun": True}
    directory.save(container.saved)

    def forget() -> None:
        del container.saved["intelRdt"]
        directory.save(container.saved)

    try:
        remove = intelrdt.begin(group, container.pids)
    except BaseException as error:
        if not posix.access(group.path, posix.F_OK):  # else delete has to try again
            taken_back(error, forget)
        raise

    def back() -> None:
        remove()
        forget()

    try:
        container.saved["intelRdt"] = group.save()
        directory.save(container.saved)
    except BaseException as error:
        taken_back(error, back)
        raise
    return back

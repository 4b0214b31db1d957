"""pause and resume: stop all processes of a container and let them go on."""

from __future__ import annotations

from errno import EBUSY

from ocirt import procfs, state
from ocirt.cgroups.freezer import FROZEN_IN, WAIT, Freezer, freezer_of
from ocirt.errors import CgroupError, Unsupported, WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.running import Running

LOCK_WAIT = 10.0  # seconds for another command that is changing the container
NAMED = 8  # processes that an error names


def pause(container: Running) -> None:
    """Stop all processes. Raises WrongState, Unsupported, and CgroupError for who does not stop."""
    with state.open_state(container.root, container.id, patience=LOCK_WAIT) as directory:
        container.saved = directory.load()
        status = container.status
        if status not in ("created", "running"):
            text = "container already paused" if status == "paused" else "container not running"
            raise WrongState(status, "running", text)
        freezer = _freezer(container)
        moving: list[str] = []
        if not freezer.freeze(lambda: moving.extend(_still_moving(container.pids()))):
            names = ", ".join(moving) or "processes that come and go"
            hint = f"not stopped within {WAIT:g} s, and all go on: {names}"
            raise CgroupError("pause", freezer.directory, "", EBUSY, hint)


def resume(container: Running) -> None:
    """Let all processes go on. Without the lock: who holds it may wait for a process that is paused."""
    status = container.status
    if status != "paused":
        raise WrongState(status, "paused", "container not paused")
    _freezer(container).thaw()


def _freezer(container: Running) -> Freezer:
    saved = container.saved.get("cgroup") or {}
    freezer = freezer_of(saved.get("paths") or {})
    if freezer is None:
        raise Unsupported("pause", saved.get("reason") or "a cgroup with a freezer")
    return freezer


def _still_moving(pids: list[int]) -> list[str]:
    """Processes that are not in the freezer, with what they do; first those that clearly move.

    On v1 one that sleeps is D when it is frozen, as one that waits for a disk is.
    """
    moving: list[str] = []
    maybe: list[str] = []
    for pid in pids:
        letter, where = procfs.process_state(pid), procfs.wchan(pid)
        if letter and letter not in "ZX" and where not in FROZEN_IN:
            words = f"pid {pid} ({letter}, in {where})" if where else f"pid {pid} ({letter})"
            (maybe if letter == "D" else moving).append(words)
    return [*moving, *maybe][:NAMED]

"""events and wait: what a container uses and what becomes of it, for whoever did not start it."""

from __future__ import annotations

import posix
import select
import time
from errno import ESRCH

from ocirt import kernel, procfs
from ocirt.errors import WrongState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.running import Running

    Event = dict[str, Any]

REAP_WAIT_MS = 2000  # for the parent of an ended process to reap it: only then its status is told


def stats_event(container: Running) -> Event:
    """{"type": "stats", "id": …, "data": …} as runc has it. Raises WrongState when nothing runs."""
    from ocirt.cgroups.stats import stats

    pid = container.pid
    if not pid:
        raise WrongState("stopped", "running", f"container with id {container.id} is not running")
    data = stats(*_groups(container), pid)
    if saved := container.saved.get("intelRdt"):
        from ocirt import intelrdt

        data["intel_rdt"] = intelrdt.stats(saved)
    return {"type": "stats", "id": container.id, "data": data}


def _groups(container: Running) -> tuple[dict[str, str], int]:
    """Paths and version, without what loading a manager costs."""
    saved = container.saved.get("cgroup") or {}
    return saved.get("paths") or {}, saved.get("version", 2)


def watch(container: Running, interval: float, emit: Callable[[Event], None]) -> None:
    """emit a stats event every interval seconds and {"type": "oom"} at once, until the container ends."""
    from ocirt.cgroups.oom import Watch

    pidfd = open_pidfd(container)
    if pidfd < 0 or not container.pid:
        raise WrongState("stopped", "running", f"container with id {container.id} is not running")
    out_of_memory = Watch(*_groups(container))
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if out_of_memory.fd >= 0:
            poll.register(out_of_memory.fd, out_of_memory.event)
        following = time.monotonic() + interval
        ended = False
        while not ended:
            ready = poll.poll(max(0.0, following - time.monotonic()) * 1000)
            ended = any(fd == pidfd for fd, _ in ready)
            if ready and (fd := out_of_memory.fd) >= 0:
                if out_of_memory.happened():
                    emit({"type": "oom", "id": container.id})
                if out_of_memory.fd < 0:
                    poll.unregister(fd)
            if ended or time.monotonic() < following:
                continue
            following = time.monotonic() + interval
            try:
                emit(stats_event(container))
            except WrongState:
                return
    finally:
        out_of_memory.close()
        posix.close(pidfd)


def await_end(container: Running) -> int | None:
    """Wait until the init process has ended. Its exit status, 128 + N for signal N; None when it had
    ended before, or the kernel does not tell (before Linux 6.15, but for our own child).

    container.warnings gets what there is to say of its end.
    """
    pidfd = open_pidfd(container)
    if pidfd < 0:
        return None
    try:
        _poll(pidfd, select.POLLIN)
        container.warnings += container.oom_report()  # while its group is still there
        try:
            found = kernel.waitid_pidfd(pidfd, nohang=True)
        except ChildProcessError:
            _poll(pidfd, 0, REAP_WAIT_MS)  # POLLHUP: reaped
            try:
                found = kernel.waitid_pidfd(pidfd, nohang=True)
            except ChildProcessError:
                return None
        return kernel.exit_status(*found[1:]) if found is not None else None
    finally:
        posix.close(pidfd)


def open_pidfd(container: Running) -> int:
    """A pidfd of the init process itself, also when it is a zombie; -1 when it is gone."""
    pid = container.saved["pid"]
    if not pid:
        return -1
    try:
        pidfd = kernel.pidfd_open(pid)
    except OSError as error:
        if error.errno == ESRCH:
            return -1
        raise
    try:
        same = procfs.start_time(pid) == container.saved["startTime"]
    except (FileNotFoundError, ProcessLookupError):
        same = False
    if not same:
        posix.close(pidfd)
        return -1
    return pidfd


def _poll(fd: int, event: int, milliseconds: int | None = None) -> None:
    poll = select.poll()
    poll.register(fd, event)
    poll.poll(milliseconds)

"""Out of memory: watch a container's group, and tell of what the kernel has killed."""

from __future__ import annotations

import posix
import select

from ocirt.cgroups.files import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Watch:
    """fd gets the poll event `event` when the group runs out of memory; close() it.

    v1 writes to an eventfd that was registered in cgroup.event_control, also when the group is
    removed; memory.events of v2 can itself be polled. fd is -1 where nothing can be watched, and once
    the group is gone.
    """

    def __init__(self, paths: dict[str, str], version: int) -> None:
        self.fd = -1
        self.unread = False  # the limit was reached on v2, and the group was gone before it could be read
        self.event = select.POLLIN
        self._group = paths.get("memory" if version == 1 else "", "")
        self._version = version
        self._kills = 0
        self._full = 0  # how often the limit was reached before
        self._reached = False  # since then
        if version == 1 and self._group:
            self._register()
        elif self._group and (counts := self._counts()) is not None:
            self._full, self._kills = counts
            self.event = select.POLLPRI

    def _register(self) -> None:
        try:
            control = posix.open(f"{self._group}/memory.oom_control", posix.O_RDONLY | posix.O_CLOEXEC)
        except FileNotFoundError:
            return
        self.fd = posix.eventfd(0, posix.EFD_CLOEXEC | posix.EFD_NONBLOCK)
        try:
            write_file(f"{self._group}/cgroup.event_control", f"{self.fd} {control}")
        except OSError:
            self.close()
            raise
        finally:
            posix.close(control)

    def _counts(self) -> tuple[int, int] | None:
        """How often the limit was reached and how many were killed; None when the group is gone.

        Reading is what makes the next change an event again.
        """
        if self.fd < 0:
            try:
                self.fd = posix.open(f"{self._group}/memory.events", posix.O_RDONLY | posix.O_CLOEXEC)
            except FileNotFoundError:
                return None
        try:
            text = posix.pread(self.fd, 4096, 0).decode()
        except OSError:  # ENODEV: the group is gone
            return None
        counts = dict(line.split(" ", 1) for line in text.splitlines())
        return int(counts.get("max", 0)), int(counts.get("oom_kill", 0))

    def happened(self, told: bool = True) -> bool:
        """Was a process killed for want of memory since the last time?

        told: by an event. Without one a look is worth it at the end: v2 tells of a second change only
        10 ms after the first, and who reached the limit may have been killed and be gone before.
        """
        if self._version == 1:
            return told and self._happened_v1()
        counts = self._counts()
        if counts is None:
            self.unread = told or self._reached
            self.close()  # it would be ready for ever
            return False
        full, kills = counts
        self._reached = self._reached or full > self._full
        if kills <= self._kills:
            return False
        self._kills = kills
        return True

    def _happened_v1(self) -> bool:
        """The end of the group is an event as well."""
        try:
            times = int(posix.eventfd_read(self.fd))
        except BlockingIOError:
            return False
        return times > (not posix.access(f"{self._group}/memory.oom_control", posix.F_OK))

    def close(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1


def report(killed: int, resources: dict[str, Any] | None) -> list[str]:
    """What to say of a container of which so many processes were killed for want of memory."""
    limit = ((resources or {}).get("memory") or {}).get("limit") or 0
    what = (
        f"the limit of {limit} bytes" if limit > 0 else "a limit above the container's or the host's memory"
    )
    how_many = "one process" if killed == 1 else f"{killed} processes"
    return [f"linux.resources.memory.limit: out of memory: the kernel killed {how_many} ({what} was reached)"]

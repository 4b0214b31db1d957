"""Stop and continue all processes of a group: cgroup.freeze of v2, freezer.state of v1.

Apart from the managers, which pause, resume and exec need not load for it. Whether a container is
paused is read by Running.is_paused.
"""

from __future__ import annotations

import posix
import time
from errno import ENODEV

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAIT = 2.0  # seconds for all processes to stop
PAUSE, LONGEST_PAUSE = 0.00002, 0.01
LET_GO = 0.2  # v1: seconds of FREEZING after which all may move for a moment
FROZEN_IN = ("__refrigerator", "do_freezer_trap")  # the kernel functions that stopped processes wait in


class Freezer:
    """The freezer of one group. Where the group is gone, nothing is frozen and thaw() is done."""

    __slots__ = ("directory", "version")

    def __init__(self, directory: str, version: int) -> None:
        self.directory = directory
        self.version = version

    def is_frozen(self) -> bool:
        """Would a process that enters the group stop, for this group's sake or for one above?"""
        if self.version == 2:
            return self._read("cgroup.freeze") == "1" or self._all_stopped()
        return self._read("freezer.state") in ("FROZEN", "FREEZING")

    def freeze(self, late: Callable[[], None] | None = None) -> bool:
        """Stop all processes; False when some do not within WAIT: then all go on, as before.

        late is called when that time is over and before they do.
        """
        done = False
        try:
            done = self._freeze_v2() if self.version == 2 else self._freeze_v1()
            if not done and late is not None:
                late()
        except FileNotFoundError:
            return False
        finally:
            if not done:  # also when a signal or an error has interrupted the wait
                self.thaw()
        return done

    def thaw(self) -> None:
        """Let the processes go on, at once."""
        name, value = ("cgroup.freeze", b"0") if self.version == 2 else ("freezer.state", b"THAWED")
        try:
            self._write(name, value)
        except FileNotFoundError:
            pass  # the group is gone, and so are its processes

    def _freeze_v2(self) -> bool:
        self._write("cgroup.freeze", b"1")
        return any(self._all_stopped() for _ in _tries())

    def _freeze_v1(self) -> bool:
        """Written again until it holds: a process that forks meanwhile keeps it at FREEZING. So
        does one that waits for another which is frozen already: it needs the other to go on.
        """
        moved = time.monotonic()
        for now in _tries():
            if now - moved > LET_GO:
                self._write("freezer.state", b"THAWED")
                time.sleep(LONGEST_PAUSE)
                moved = now
            self._write("freezer.state", b"FROZEN")
            if self._read("freezer.state") == "FROZEN":
                return True
        return False

    def _all_stopped(self) -> bool:
        return "frozen 1" in self._read("cgroup.events").split("\n")

    def _read(self, name: str) -> str:
        try:
            fd = posix.open(f"{self.directory}/{name}", posix.O_RDONLY | posix.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            return posix.read(fd, 4096).decode().rstrip("\n")
        except OSError as error:
            if error.errno != ENODEV:  # removed while it was open
                raise
            return ""
        finally:
            posix.close(fd)

    def _write(self, name: str, value: bytes) -> None:
        fd = posix.open(f"{self.directory}/{name}", posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, value)
        except OSError as error:
            if error.errno != ENODEV:
                raise
        finally:
            posix.close(fd)


def freezer_of(paths: dict[str, str]) -> Freezer | None:
    """The freezer of a container with these groups (controller to directory); None without one.

    A hybrid host that has no v1 freezer has that of cgroup2.
    """
    if "freezer" in paths:
        return Freezer(paths["freezer"], 1)
    return Freezer(paths[""], 2) if "" in paths else None


def _tries() -> Iterator[float]:
    """The time now, again and again with growing pauses, for WAIT."""
    now = time.monotonic()
    deadline = now + WAIT
    pause = PAUSE
    while now < deadline:
        yield now
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
        now = time.monotonic()

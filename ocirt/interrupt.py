"""A signal that ends run or exec before the program runs: noticed at defined points only.

The foreground blocks the signals and arms a signalfd. Whoever makes the container asks for them
before each action and wherever it waits; nowhere else can one come in between, so that what was
made is always known to its undo.
"""

from __future__ import annotations

import posix
import select

from ocirt.errors import OcirtError

SIGINFO_SIZE = 128
_armed = -1  # the signalfd; as process-wide as the signals are


class Interrupted(OcirtError):
    """A signal came before there was a process to pass it on to."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by signal {number}")
        self.exit_status = 128 + number


def arm(signals: int) -> None:
    """From here on check() and wait() raise Interrupted when this signalfd has something."""
    global _armed
    _armed = signals


def disarm() -> None:
    """The program runs, or everything is being undone: no signal is to come in between."""
    arm(-1)


def fd() -> int:
    """What to poll beside one's own fds, for input; -1 (which poll cannot take) when not armed."""
    return _armed


def check() -> None:
    """Raise Interrupted, once, if a signal has come."""
    if _armed >= 0 and is_readable(_armed):
        signals = _armed
        disarm()
        raise Interrupted(read_signal(signals))


def wait(waited: int, *, first: bool = False) -> None:
    """Until waited is readable. A signal raises Interrupted; with first, only while waited is not."""
    if _armed < 0:
        return  # the caller's own read waits as well
    poll = select.poll()
    poll.register(waited, select.POLLIN)
    poll.register(_armed, select.POLLIN)
    ready = {found for found, _ in poll.poll()}
    if not (first and waited in ready):
        check()


def is_readable(signals: int) -> bool:
    poll = select.poll()
    poll.register(signals, select.POLLIN)
    return bool(poll.poll(0))


def read_signal(signals: int) -> int:
    """The number of the next signal of a signalfd (signalfd_siginfo starts with it)."""
    return int.from_bytes(posix.read(signals, SIGINFO_SIZE)[:4], "little")

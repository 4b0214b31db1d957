"""Text to the standard streams by write(2): in the launcher there may be no sys.stdout."""

from __future__ import annotations

import posix
import select
from errno import EAGAIN, EPIPE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def out(text: str) -> None:
    """Write to stdout. A reader that went away ends the program, quietly as SIGPIPE would."""
    try:
        write(1, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        if error.errno == EPIPE:
            _end()
        raise


def err(text: str) -> None:
    """Write to stderr; there is nowhere to complain to when that fails."""
    try:
        write(2, text.encode("utf-8", "surrogateescape"))
    except OSError:
        pass


def write(fd: int, data: bytes) -> None:
    """All of data, also to a pipe that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[posix.write(fd, view) :]
        except OSError as error:
            if error.errno != EAGAIN:
                raise
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def _end() -> NoReturn:
    posix._exit(128 + 13)

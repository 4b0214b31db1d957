"""The terminal of a container in the foreground: between our own terminal and its pty."""

from __future__ import annotations

import posix
import select
from errno import EIO

from ocirt import kernel

CHUNK = 4096  # what a pipe that polls as writable takes without blocking
BACKLOG = 1 << 16  # output that is read before the reader of our stdout has taken it

# struct termios of glibc: four words of flags, one byte of line discipline, the characters
_C_OFLAG, _C_CC = slice(4, 8), 17


class Console:
    """Relays between fds 0 and 1 and a pty master, which it owns."""

    def __init__(self, master: int) -> None:
        self.master = master
        self._stdin_is_tty = posix.isatty(0)
        self._sized_fd = next((fd for fd in (0, 1, 2) if posix.isatty(fd)), -1)
        self._saved: bytes | None = None
        self._to_host = b""
        self._to_container = b""
        self._master_readable = self._master_writable = True
        self._stdin_open = self._stdout_open = True
        self._stdin_ready = self._stdin_plain = False
        self._watching_stdin = self._watching_stdout = False
        self._stdin_lines = True  # does what came from stdin end in a whole line?
        self._events: select.epoll | None = None

    def begin(self) -> None:
        """Size and modes, before the program can ask for them."""
        posix.set_blocking(self.master, False)
        modes = bytearray(kernel.tcgetattr(self.master))
        # Our own terminal turns newlines into CR LF; a file that stdout may be wants none.
        _set_flags(modes, _C_OFLAG, clear=kernel.ONLCR)
        kernel.tcsetattr(self.master, kernel.TCSANOW, bytes(modes))
        self.resize()
        self.make_raw()

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        if self._sized_fd < 0 or self.master < 0:
            return
        try:
            rows, cols = kernel.winsize(self._sized_fd)
            if rows and cols:
                kernel.set_winsize(self.master, rows, cols)
        except OSError as error:
            if error.errno != EIO:  # our terminal has been hung up
                raise

    def make_raw(self) -> None:
        """Keys go to the container as they are; output processing stays as it was."""
        if not self._stdin_is_tty:
            return
        try:
            now = kernel.tcgetattr(0)
            if self._saved is None:
                self._saved = now
            raw = bytearray(kernel.cfmakeraw(self._saved))
            raw[_C_OFLAG] = self._saved[_C_OFLAG]
            kernel.tcsetattr(0, kernel.TCSANOW, bytes(raw))
        except OSError as error:
            if error.errno != EIO:  # hung up, which sends SIGCONT along with SIGHUP
                raise

    def end(self) -> None:
        """Restore our terminal and close the master."""
        if self._saved is not None:
            try:
                kernel.tcsetattr(0, kernel.TCSADRAIN, self._saved)
            except OSError as error:
                if error.errno != EIO:
                    raise
            self._saved = None
        if self.master >= 0:
            posix.close(self.master)
            self.master = -1

    def register(self, events: select.epoll) -> None:
        self._events = events
        # By edges: while no process has the terminal open, the hang-up would be told for ever.
        events.register(self.master, select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)
        self._watch_stdin(True)

    def ready(self, fd: int, what: int) -> None:
        """Note what epoll says about one of our fds."""
        if fd == self.master:
            self._master_readable |= bool(what & (select.EPOLLIN | select.EPOLLHUP))
            self._master_writable |= bool(what & select.EPOLLOUT)
        elif fd == 0:
            self._stdin_ready = True
        # fd 1 can be written to again: move() does it

    def move(self) -> bool:
        """Move what can be moved without waiting; True when there may be more right now."""
        self._flush()
        while self._master_readable and len(self._to_host) < BACKLOG:
            self._read_master()
            self._flush()
        self._watch_stdout(bool(self._to_host))
        if self._stdin_open and not self._to_container and (self._stdin_ready or self._stdin_plain):
            self._read_stdin()
        self._feed()
        self._watch_stdin(self._stdin_open and not self._to_container)
        return self._stdin_plain and self._stdin_open and not self._to_container

    def drain(self, interrupt_fd: int) -> None:
        """The process has ended: write what it has left, unless a signal says to stop."""
        self._master_readable = self.master >= 0
        poll = select.poll()
        poll.register(1, select.POLLOUT)
        poll.register(interrupt_fd, select.POLLIN)
        while True:
            if self._master_readable and len(self._to_host) < BACKLOG:
                self._read_master()
            self._flush()
            if not self._to_host and not self._master_readable:
                return
            if self._to_host and any(fd == interrupt_fd for fd, _ in poll.poll()):
                return

    def _read_master(self) -> None:
        try:
            data = posix.read(self.master, BACKLOG)
        except BlockingIOError:
            data = b""
        except OSError as error:
            if error.errno != EIO:  # no process has it open any more, or none yet
                raise
            data = b""
        if not data:
            self._master_readable = False
        elif self._stdout_open:
            self._to_host += data

    def _flush(self) -> None:
        """To stdout, which is not ours to make non-blocking: only while it takes a chunk."""
        while self._to_host:
            if not self._takes_a_chunk():
                return
            try:
                written = posix.write(1, self._to_host[:CHUNK])
            except BlockingIOError:
                return
            except OSError:
                # A closed pipe, a hung-up terminal: the program goes on, its output is lost.
                self._stdout_open = False
                self._to_host = b""
                return
            self._to_host = self._to_host[written:]

    def _takes_a_chunk(self) -> bool:
        poll = select.poll()
        poll.register(1, select.POLLOUT)
        return bool(poll.poll(0))

    def _read_stdin(self) -> None:
        self._stdin_ready = False
        try:
            data = posix.read(0, CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != EIO:
                raise
            data = b""
        if data:
            self._stdin_lines = data.endswith(b"\n")
            self._to_container = data
            return
        self._stdin_open = False
        if self._stdin_is_tty:
            self._hang_up()
        else:
            self._to_container = self._end_of_file()

    def _hang_up(self) -> None:
        """A raw terminal has no end of file: ours was hung up, and so is the container's.

        A shell that is pid 1 ignores SIGHUP, but not that its input has ended.
        """
        posix.close(self.master)
        self.master = -1
        self._master_readable = self._master_writable = False

    def _end_of_file(self) -> bytes:
        """The character that means it; twice behind a line without an end, which the first sends."""
        modes = kernel.tcgetattr(self.master)
        character = modes[_C_CC + kernel.VEOF : _C_CC + kernel.VEOF + 1]
        return character if self._stdin_lines else character * 2

    def _feed(self) -> None:
        while self._to_container and self._master_writable:
            try:
                written = posix.write(self.master, self._to_container)
            except BlockingIOError:
                self._master_writable = False
                return
            except OSError as error:
                if error.errno != EIO:
                    raise
                self._to_container = b""
                return
            self._to_container = self._to_container[written:]

    def _watch_stdin(self, wanted: bool) -> None:
        if wanted == self._watching_stdin or self._events is None or self._stdin_plain:
            return
        try:
            if wanted:
                self._events.register(0, select.EPOLLIN)
            else:
                self._events.unregister(0)
            self._watching_stdin = wanted
        except PermissionError:
            self._stdin_plain = True  # a file is always ready, and epoll has no word for that

    def _watch_stdout(self, wanted: bool) -> None:
        if wanted == self._watching_stdout or self._events is None:
            return
        try:
            if wanted:
                self._events.register(1, select.EPOLLOUT)
            else:
                self._events.unregister(1)
            self._watching_stdout = wanted
        except PermissionError:
            pass  # a file: _flush() has left nothing


def _set_flags(modes: bytearray, word: slice, *, clear: int) -> None:
    value = int.from_bytes(modes[word], "little") & ~clear
    modes[word] = value.to_bytes(4, "little")

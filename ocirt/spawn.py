"""Run a helper program of the host (hooks, newuidmap) and keep what it says."""

from __future__ import annotations

import posix
import select
import time

from ocirt import interrupt, kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT_OUTPUT = 16 << 10  # the end of stderr that is kept, in bytes


class Result:
    """How a program ended: status is 0, an exit status, or -N for signal N; None after a timeout."""

    __slots__ = ("seconds", "status", "stderr")

    def __init__(self, status: int | None, stderr: str, seconds: float) -> None:
        self.status = status
        self.stderr = stderr
        self.seconds = seconds

    def describe(self) -> str:
        if self.status is None:
            return "timed out"
        return f"killed by signal {-self.status}" if self.status < 0 else f"exit status {self.status}"


def run(
    argv: list[str],
    env: Mapping[bytes, bytes],
    stdin: bytes = b"",
    timeout: float | None = None,
    path: str | None = None,
) -> Result:
    """Run path (argv[0] when not given; absolute) and wait for it; killed after timeout seconds.

    Raises OSError when it cannot be started, Interrupted when a signal ends the run or exec that
    it is for: then it was killed. stdout and stderr are read together.
    """
    started = time.monotonic()
    in_read, in_write = posix.pipe2(posix.O_CLOEXEC)
    out_read, out_write = posix.pipe2(posix.O_CLOEXEC)
    try:
        actions = [
            (posix.POSIX_SPAWN_DUP2, in_read, 0),
            (posix.POSIX_SPAWN_DUP2, out_write, 1),
            (posix.POSIX_SPAWN_DUP2, out_write, 2),
        ]
        # The command and Python ignore these two; a hook must not inherit that.
        ignored = [kernel.SIGPIPE, kernel.SIGXFSZ]
        pid = posix.posix_spawn(
            path or argv[0], argv, env, file_actions=actions, setsigmask=[], setsigdef=ignored
        )
    except OSError:
        posix.close(in_write)
        posix.close(out_read)
        raise
    finally:
        posix.close(in_read)
        posix.close(out_write)
    try:
        stderr, timed_out = _exchange(pid, in_write, out_read, stdin, timeout, started)
    except BaseException:
        posix.kill(pid, kernel.SIGKILL)  # not reaped yet, so the pid is still its own
        posix.waitpid(pid, 0)
        raise
    _, status = posix.waitpid(pid, 0)
    code = None if timed_out else posix.waitstatus_to_exitcode(status)
    return Result(code, stderr.decode("utf-8", "replace"), time.monotonic() - started)


def _exchange(
    pid: int, in_write: int, out_read: int, stdin: bytes, timeout: float | None, started: float
) -> tuple[bytes, bool]:
    """Feed stdin and collect output until the program has ended or its time is over.

    The end of the program counts, not the end of its output: a daemon it started may hold that.
    """
    output = b""
    timed_out = ended = False
    pidfd = -1
    try:
        pidfd = kernel.pidfd_open(pid)
        posix.set_blocking(in_write, False)
        posix.set_blocking(out_read, False)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(out_read, select.POLLIN)
        if interrupt.fd() >= 0:
            poll.register(interrupt.fd(), select.POLLIN)
        if stdin:
            poll.register(in_write, select.POLLOUT)
        else:
            posix.close(in_write)
            in_write = -1
        while not ended:
            left = None if timeout is None else max(0.0, started + timeout - time.monotonic()) * 1000
            ready = poll.poll(left)
            if not ready:
                timed_out = True
                kernel.pidfd_send_signal(pidfd, kernel.SIGKILL)
                timeout = None
                continue
            for fd, _events in ready:
                if fd == pidfd:
                    ended = True
                elif fd == out_read:
                    output, more = _read(out_read, output)
                    if not more:
                        poll.unregister(out_read)
                elif fd == in_write:
                    stdin = _write(in_write, stdin)
                    if not stdin:
                        poll.unregister(in_write)
                        posix.close(in_write)
                        in_write = -1
                else:
                    interrupt.check()
        output, _ = _read(out_read, output)
    finally:
        for fd in (pidfd, out_read, in_write):
            if fd >= 0:
                posix.close(fd)
    return output, timed_out


def _read(fd: int, output: bytes) -> tuple[bytes, bool]:
    try:
        data = posix.read(fd, 65536)
    except BlockingIOError:
        return output, True
    return (output + data)[-KEPT_OUTPUT:], bool(data)


def _write(fd: int, data: bytes) -> bytes:
    try:
        return data[posix.write(fd, data) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return b""  # it does not want its input

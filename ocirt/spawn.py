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
    cwd: str | None = None,
    watched: int = -1,
) -> Result:
    """Run path (argv[0] when not given; absolute) and wait for it; killed after timeout seconds.

    It runs in cwd, or in / when that is gone. It is also killed when watched becomes readable: the
    pidfd of the process that it is run for.
    Raises OSError when it cannot be started, Interrupted when a signal ends the run or exec that
    it is for: then it was killed. stdout and stderr are read together.
    """
    started = time.monotonic()
    in_read, in_write = posix.pipe2(posix.O_CLOEXEC)
    out_read, out_write = posix.pipe2(posix.O_CLOEXEC)
    cwd_fd = -1
    try:
        if cwd is not None:
            cwd_fd = _open_directory(cwd)
        # Signals at their defaults: the command and Python ignore some; a hook must not inherit that.
        pid, pidfd = kernel.spawn(
            -1,
            [kernel.fsencode(word) for word in argv],
            [name + b"=" + value for name, value in env.items()],
            (),
            stdio=(in_read, out_write, out_write),
            path=kernel.fsencode(path or argv[0]),
            cwd_fd=cwd_fd,
        )
    except OSError:
        posix.close(in_write)
        posix.close(out_read)
        raise
    finally:
        posix.close(in_read)
        posix.close(out_write)
        if cwd_fd >= 0:
            posix.close(cwd_fd)
    try:
        stderr, timed_out = _exchange(pidfd, in_write, out_read, stdin, timeout, started, watched)
    except BaseException:
        posix.kill(pid, kernel.SIGKILL)  # not reaped yet, so the pid is still its own
        posix.waitpid(pid, 0)
        raise
    _, status = posix.waitpid(pid, 0)
    code = None if timed_out else posix.waitstatus_to_exitcode(status)
    return Result(code, stderr.decode("utf-8", "replace"), time.monotonic() - started)


def _open_directory(path: str) -> int:
    flags = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC
    try:
        return posix.open(path, flags)
    except OSError:
        return posix.open("/", flags)


def _exchange(
    pidfd: int,
    in_write: int,
    out_read: int,
    stdin: bytes,
    timeout: float | None,
    started: float,
    watched: int,
) -> tuple[bytes, bool]:
    """Feed stdin and collect output until the program has ended or its time is over.

    The end of the program counts, not the end of its output: a daemon it started may hold that.
    """
    output = b""
    timed_out = ended = False
    try:
        posix.set_blocking(in_write, False)
        posix.set_blocking(out_read, False)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.register(out_read, select.POLLIN)
        if interrupt.fd() >= 0:
            poll.register(interrupt.fd(), select.POLLIN)
        if watched >= 0:
            poll.register(watched, select.POLLIN)
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
                elif fd == watched:
                    kernel.pidfd_send_signal(pidfd, kernel.SIGKILL)
                    poll.unregister(watched)
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

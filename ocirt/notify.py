"""NOTIFY_SOCKET: the container tells us that it is ready, we tell our service manager.

The container gets the directory STATE/notify as /run/notify, and NOTIFY_SOCKET naming a socket in
it, which whoever waits binds anew: a run in the foreground or a start. What comes is passed on
with the container's pid as MAINPID; of the rest only STATUS, ERRNO and the like, since the
service manager knows no pid or fd from inside the container.
"""

from __future__ import annotations

import _socket
import posix
import select
from _stat import S_ISSOCK
from errno import ENOTSOCK

from ocirt import kernel
from ocirt.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.container import Container

VARIABLE = "NOTIFY_SOCKET"
INSIDE = "/run/notify/notify.sock"
NAME = "notify.sock"
PASSED_ON = (b"READY=1", b"STOPPING=1", b"STATUS=", b"ERRNO=", b"BUSERROR=", b"EXTEND_TIMEOUT_USEC=")
MAX_MESSAGE = 4096


class Relay:
    """Socket in directory that the container writes to; pid is its init process on the host.

    The service manager's socket is the one in our environment. Close it in the end.
    """

    def __init__(self, directory: str, pid: int) -> None:
        self.pid = pid
        self.ready = False
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            self._bind(directory)
        except OSError as error:
            self._socket.close()
            raise StepError(error.errno or 0, "bind", VARIABLE, f"{directory}/{NAME}") from None
        self.fd = self._socket.fileno()

    def _bind(self, directory: str) -> None:
        """Through an fd: the path may be longer than sun_path's 108 bytes."""
        flags = posix.O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
        dirfd = posix.open(directory, flags)
        try:
            try:
                posix.unlink(NAME, dir_fd=dirfd)  # that of a start that failed
            except FileNotFoundError:
                pass
            self._socket.bind(f"/proc/self/fd/{dirfd}/{NAME}")
            _let_all_write(dirfd)
        finally:
            posix.close(dirfd)

    def receive(self) -> None:
        """Pass on one message that has arrived."""
        lines = self._socket.recv(MAX_MESSAGE).split(b"\n")
        kept = [line for line in lines if line.startswith(PASSED_ON)]
        if b"READY=1" in kept:
            self.ready = True
            kept.append(b"MAINPID=%d" % self.pid)
        if kept:
            send(kernel.getenv(VARIABLE) or "", b"\n".join(kept))

    def close(self) -> None:
        self._socket.close()


def _let_all_write(dirfd: int) -> None:
    """Any user inside may write to the socket; the directory is in reach of the container only.

    Which may have put a link to a file of the host in the socket's place by now.
    """
    fd = posix.open(NAME, posix.O_PATH | posix.O_NOFOLLOW | posix.O_CLOEXEC, dir_fd=dirfd)
    try:
        if not S_ISSOCK(posix.fstat(fd).st_mode):
            raise OSError(ENOTSOCK, posix.strerror(ENOTSOCK))
        posix.chmod(f"/proc/self/fd/{fd}", 0o777)
    finally:
        posix.close(fd)


def send(address: str, message: bytes) -> None:
    """One datagram to a service manager; address is a path, or a name behind an @."""
    place = b"\0" + kernel.fsencode(address[1:]) if address.startswith("@") else kernel.fsencode(address)
    sender = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
    try:
        sender.sendto(message, place)
    except OSError as error:
        raise StepError(error.errno or 0, "sendto", VARIABLE, address) from None
    finally:
        sender.close()


def prepare(directory: str) -> None:
    """Make the directory that the container gets to see."""
    posix.mkdir(directory, 0o755)
    posix.chmod(directory, 0o755)  # whatever the umask: other users inside must get through


def relay_until_ready(relay: Relay, pidfd: int) -> None:
    """Serve until the container is ready, or has ended."""
    poll: Any = select.poll()
    poll.register(relay.fd, select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    while not relay.ready:
        ready = {fd for fd, _ in poll.poll()}
        if relay.fd in ready:
            relay.receive()
        elif pidfd in ready:
            return


def start_and_await_ready(container: Container) -> None:
    """start with NOTIFY_SOCKET in the environment: it returns when the container says READY=1.

    A container that was created without one has no socket to write to: it is only started.
    """
    directory = f"{container.root}/{container.id}/notify"
    try:
        posix.stat(directory)
    except FileNotFoundError:
        container.start()
        return
    relay = Relay(directory, container.saved["pid"])
    try:
        pidfd = kernel.pidfd_open(relay.pid)
        try:
            container.start()
            relay_until_ready(relay, pidfd)
        finally:
            posix.close(pidfd)
    finally:
        relay.close()

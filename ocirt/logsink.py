"""Records for journald and syslog, by their datagram sockets (crun's --log journald:, syslog:)."""

from __future__ import annotations

import _socket
import posix

from ocirt.errors import StepError

SOCKETS = {"journald": "/run/systemd/journal/socket", "syslog": "/dev/log"}
PRIORITIES = {"error": 3, "warning": 4, "info": 6, "debug": 7}
LOG_DAEMON = 3 << 3


class Sink:
    """One of the two; name is the identifier, ocirt if empty."""

    def __init__(self, kind: str, name: str) -> None:
        self.kind = kind
        self.name = name or "ocirt"
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM)
        try:
            self._socket.connect(SOCKETS[kind])
        except OSError as error:
            self._socket.close()
            raise StepError(error.errno or 0, "connect", "--log", f"{kind} at {SOCKETS[kind]}") from None

    def send(self, level: str, message: str) -> None:
        try:
            self._socket.send(encode(self.kind, self.name, level, message))
        except OSError:
            pass  # a log that is gone must not keep the command from doing its work


def encode(kind: str, name: str, level: str, message: str) -> bytes:
    """The datagram of one record: fields for journald, RFC 3164 for syslog."""
    priority = PRIORITIES[level]
    message = message.replace("\n", " ")
    if kind == "syslog":
        line = f"<{LOG_DAEMON | priority}>{name}[{posix.getpid()}]: {message}"
        return line.encode("utf-8", "backslashreplace")
    fields = (
        ("MESSAGE", message),
        ("PRIORITY", str(priority)),
        ("SYSLOG_IDENTIFIER", name),
        ("SYSLOG_PID", str(posix.getpid())),
    )
    return "".join(f"{key}={value}\n" for key, value in fields).encode("utf-8", "backslashreplace")

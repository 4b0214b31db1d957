"""A D-Bus client that is just large enough to ask systemd for a scope.

Calls are synchronous and each has a deadline. systemd also listens on a socket of its own, which
systemctl uses: no bus stands between there, so it is tried first and the bus is the fallback.
docs/systemd.md says why this is no library.
Values of a variant are pairs (signature, value).
"""

from __future__ import annotations

import _socket
import posix
import time
from _struct import Struct, pack, unpack_from
from errno import EAGAIN, ECONNREFUSED, ECONNRESET, EPROTO, ETIMEDOUT

from ocirt import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TIMEOUT = 30.0  # seconds for a call and for a job
MAX_MESSAGE = 1 << 24
LITTLE_ENDIAN = 108  # "l"
METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE = range(1, 9)

BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
SYSTEMD = "org.freedesktop.systemd1"
MANAGER = f"{SYSTEMD}.Manager"
MANAGER_PATH = "/org/freedesktop/systemd1"
MATCH = f"type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved',path='{MANAGER_PATH}'"


class DBusError(Exception):
    """The other side answered with an error: its name and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self.name = name
        self.text = text

    def __str__(self) -> str:
        return self.text or self.name


# Marshalling (D-Bus specification, "Type System" and "Marshaling (Wire Format)")

_HEAD = Struct("<BBBBIII")  # the last is the length of the array of header fields
_ALIGN = {"y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "(": 8, "{": 8}  # others: 4
_FIXED = {"y": "<B", "b": "<I", "n": "<h", "q": "<H", "i": "<i", "u": "<I", "x": "<q", "t": "<Q", "d": "<d"}
_CLOSING = {"(": ")", "{": "}"}


def type_end(signature: str, at: int) -> int:
    """Index behind the complete type that starts at signature[at]."""
    while signature[at] == "a":
        at += 1
    if signature[at] in _CLOSING:
        closing = _CLOSING[signature[at]]
        at += 1
        while signature[at] != closing:
            at = type_end(signature, at)
    return at + 1


def encode(signature: str, values: Any) -> bytes:
    """Body of a message: one value for each complete type of the signature."""
    out = bytearray()
    _encode_all(out, signature, 0, len(signature), values)
    return bytes(out)


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _encode_all(out: bytearray, signature: str, at: int, end: int, values: Any) -> None:
    for value in values:
        at = _encode(out, signature, at, value)
    if at != end:
        raise ValueError(f"{signature!r} does not fit {values!r}")


def _encode(out: bytearray, signature: str, at: int, value: Any) -> int:
    kind = signature[at]
    _pad(out, _ALIGN.get(kind, 4))
    if kind in _FIXED:
        out += pack(_FIXED[kind], value)
    elif kind in "so":
        data = kernel.fsencode(value)
        out += pack("<I", len(data)) + data + b"\0"
    elif kind == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif kind == "v":
        _encode(out, "g", 0, value[0])
        _encode(out, value[0], 0, value[1])
    elif kind == "a":
        end = type_end(signature, at)
        size_at = len(out)
        out += b"\0\0\0\0"
        _pad(out, _ALIGN.get(signature[at + 1], 4))
        start = len(out)
        for item in value:
            _encode(out, signature, at + 1, item)
        out[size_at : size_at + 4] = pack("<I", len(out) - start)
        return end
    elif kind in _CLOSING:
        end = type_end(signature, at)
        _encode_all(out, signature, at + 1, end - 1, value)
        return end
    else:
        raise ValueError(f"no D-Bus type {kind!r}")
    return at + 1


def decode(signature: str, data: bytes, at: int = 0) -> list[Any]:
    """Values of a body. Arrays are lists, structs tuples, variants the value without its type."""
    values = []
    position = 0
    while position < len(signature):
        value, at = _decode(signature, position, data, at)
        position = type_end(signature, position)
        values.append(value)
    return values


def _decode(signature: str, position: int, data: bytes, at: int) -> tuple[Any, int]:
    kind = signature[position]
    alignment = _ALIGN.get(kind, 4)
    at += -at % alignment
    if kind in _FIXED:
        (value,) = unpack_from(_FIXED[kind], data, at)
        return (bool(value) if kind == "b" else value), at + (4 if alignment == 4 else alignment)
    if kind in "so":
        (size,) = unpack_from("<I", data, at)
        return data[at + 4 : at + 4 + size].decode("utf-8", "surrogateescape"), at + 5 + size
    if kind == "g":
        size = data[at]
        return data[at + 1 : at + 1 + size].decode(), at + 2 + size
    if kind == "v":
        inner, at = _decode("g", 0, data, at)
        return _decode(inner, 0, data, at)
    if kind == "a":
        (size,) = unpack_from("<I", data, at)
        at += 4
        at += -at % _ALIGN.get(signature[position + 1], 4)
        end = at + size
        items = []
        while at < end:
            item, at = _decode(signature, position + 1, data, at)
            items.append(item)
        return items, at
    values = []
    position += 1
    while signature[position] not in ")}":
        value, at = _decode(signature, position, data, at)
        position = type_end(signature, position)
        values.append(value)
    return tuple(values), at


def method_call(
    serial: int,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str,
    values: Any,
) -> bytes:
    """A whole message."""
    body = encode(signature, values)
    fields = [(PATH, ("o", path)), (INTERFACE, ("s", interface)), (MEMBER, ("s", member))]
    fields.append((DESTINATION, ("s", destination)))
    if signature:
        fields.append((SIGNATURE, ("g", signature)))
    head = bytearray(_HEAD.pack(LITTLE_ENDIAN, METHOD_CALL, 0, 1, len(body), serial, 0))
    for field in fields:
        _encode(head, "(yv)", 0, field)
    head[12:16] = pack("<I", len(head) - 16)
    _pad(head, 8)
    return bytes(head) + body


def split_message(data: bytes | bytearray) -> tuple[int, dict[int, Any], list[Any], int] | None:
    """(type, header fields, values, length) of the first message in data; None if it is not whole."""
    if len(data) < 16:
        return None
    order, kind, _flags, version, body_size, _serial, fields_size = _HEAD.unpack_from(data)
    if order != LITTLE_ENDIAN or version != 1 or body_size + fields_size > MAX_MESSAGE:
        raise OSError(EPROTO, "not a D-Bus message")
    body = 16 + fields_size
    body += -body % 8
    if len(data) < body + body_size:
        return None
    fields = dict(_decode("a(yv)", 0, bytes(data[:body]), 12)[0])
    values = decode(fields.get(SIGNATURE, ""), bytes(data[body : body + body_size]))
    return kind, fields, values, body + body_size


# The connection


class Bus:
    """A connection to systemd: of the system, or the user's own. Close it, or use `with`.

    Raises OSError when nothing can be reached; its filename is the last address (bytes) tried.
    """

    def __init__(self, user: bool) -> None:
        self._serial = 0
        self._received = bytearray()
        self._jobs: dict[str, str] = {}  # removed ones: object path to result
        self._setup: set[int] = set()  # serials of calls whose answers only count as errors
        error: OSError = ConnectionRefusedError(ECONNREFUSED, "no socket of systemd and no bus is known")
        for address, is_private in addresses(user):
            try:
                self._connect(address)
                self._authenticate(is_private)
            except OSError as failed:
                # The socket of systemd itself may be closed to us; then the bus says why.
                error = OSError(failed.errno or EPROTO, failed.strerror or str(failed), address)
                continue
            return
        raise error

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def _connect(self, address: bytes) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            # With settimeout the socket would not block, and connect fail at once where many do so.
            self._socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, pack("@ll", int(TIMEOUT), 0))
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            if error.errno == EAGAIN:
                raise OSError(ETIMEDOUT, posix.strerror(ETIMEDOUT)) from None
            raise
        self._socket.settimeout(TIMEOUT)

    def _authenticate(self, is_private: bool) -> None:
        """SASL EXTERNAL without a name: who we are is what the kernel says, also from inside a
        user namespace. Everything up to the first call goes out at once, as sd-bus does.
        """
        deadline = time.monotonic() + TIMEOUT
        start = b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n"
        try:
            if not is_private:
                start += self._message(*BUS, "Hello", "", ()) + self._message(*BUS, "AddMatch", "s", (MATCH,))
                self._setup = {1, 2}
            self._send(start)
            while True:
                line, found, rest = self._received.partition(b"\r\n")
                if not found:
                    self._receive(deadline)
                    continue
                self._received = rest
                if line.startswith(b"OK"):
                    return
                if not line.startswith(b"DATA"):
                    text = line.decode("ascii", "replace")
                    raise OSError(EPROTO, f"does not let us in: {text}")
        except OSError:
            self._socket.close()
            raise

    def _message(
        self, destination: str, path: str, interface: str, member: str, signature: str, values: Any
    ) -> bytes:
        self._serial += 1
        return method_call(self._serial, destination, path, interface, member, signature, values)

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._socket.send(view, _socket.MSG_NOSIGNAL) :]

    def _receive(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise OSError(ETIMEDOUT, posix.strerror(ETIMEDOUT))
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(65536)
        except TimeoutError:
            raise OSError(ETIMEDOUT, posix.strerror(ETIMEDOUT)) from None
        if not data:
            raise OSError(ECONNRESET, "systemd closed the connection")
        self._received += data

    def call(
        self,
        member: str,
        signature: str = "",
        *values: Any,
        path: str = MANAGER_PATH,
        interface: str = MANAGER,
        timeout: float = TIMEOUT,
    ) -> list[Any]:
        """Call a method of systemd; its results. Raises DBusError, OSError (ETIMEDOUT)."""
        deadline = time.monotonic() + timeout
        message = self._message(SYSTEMD, path, interface, member, signature, values)
        wanted = self._serial
        self._send(message)
        while True:
            kind, fields, results = self._next(deadline)
            if fields.get(REPLY_SERIAL) == wanted:
                if kind == ERROR:
                    raise _error(fields, results)
                return results

    def wait_for_job(self, job: str, timeout: float = TIMEOUT) -> str:
        """Result of a job: "done", "failed", "canceled", "timeout", "dependency", "skipped"."""
        deadline = time.monotonic() + timeout
        while job not in self._jobs:
            self._next(deadline)
        return self._jobs.pop(job)

    def _next(self, deadline: float) -> tuple[int, dict[int, Any], list[Any]]:
        """The next message; results of jobs are kept."""
        while (message := split_message(self._received)) is None:
            self._receive(deadline)
        kind, fields, values, length = message
        del self._received[:length]
        if kind == SIGNAL and fields.get(MEMBER) == "JobRemoved" and fields.get(INTERFACE) == MANAGER:
            _id, job, _unit, result = values
            self._jobs[job] = result
        elif kind == ERROR and fields.get(REPLY_SERIAL) in self._setup:
            raise _error(fields, values)
        return kind, fields, values


def _error(fields: dict[int, Any], values: list[Any]) -> DBusError:
    text = values[0] if values and isinstance(values[0], str) else ""
    return DBusError(fields.get(ERROR_NAME, ""), text)


def addresses(user: bool) -> list[tuple[bytes, bool]]:
    """Socket addresses to try in turn, each with whether it is systemd's own."""
    if not user:
        found = [(b"/run/systemd/private", True)]
        bus = kernel.getenv("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
        return found + [(address, False) for address in parse_address(bus)]
    directory = kernel.getenv("XDG_RUNTIME_DIR") or f"/run/user/{posix.geteuid()}"
    found = [(kernel.fsencode(f"{directory}/systemd/private"), True)]
    bus = kernel.getenv("DBUS_SESSION_BUS_ADDRESS") or ""
    found += [(address, False) for address in parse_address(bus)]
    return [*found, (kernel.fsencode(f"{directory}/bus"), False)]


def parse_address(text: str) -> list[bytes]:
    """ "unix:path=/run/bus,guid=…;unix:abstract=x" as addresses for connect; other kinds are left out."""
    found = []
    for entry in text.split(";"):
        transport, _, rest = entry.partition(":")
        keys = dict(pair.split("=", 1) for pair in rest.split(",") if "=" in pair)
        if transport == "unix" and "path" in keys:
            found.append(_unescape(keys["path"]))
        elif transport == "unix" and "abstract" in keys:
            found.append(b"\0" + _unescape(keys["abstract"]))
    return found


def _unescape(text: str) -> bytes:
    first, *others = kernel.fsencode(text).split(b"%")
    return first + b"".join(bytes((int(part[:2], 16),)) + part[2:] for part in others)

"""The D-Bus client: its bytes next to those of other clients, and its behaviour with a peer that
plays systemd."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ocirt.cgroups import dbus

OK = b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n"


@pytest.mark.parametrize(
    ("signature", "values", "wire"),
    [
        ("y", [7], "07"),
        ("b", [True], "01000000"),
        ("t", [(1 << 64) - 1], "ffffffffffffffff"),
        ("s", ["ab"], "02000000 616200"),
        ("o", ["/a"], "02000000 2f6100"),
        ("ys", [1, "x"], "01 000000 01000000 7800"),
        ("au", [[5, 6]], "08000000 05000000 06000000"),
        # The length of an array does not count the padding before its first element.
        ("at", [[1]], "08000000 00000000 0100000000000000"),
        ("at", [[]], "00000000 00000000"),
        ("ay", [b"\x03\x01"], "02000000 0301"),
        ("v", [("u", 9)], "01 7500 00 09000000"),
        ("a(ss)", [[("a", "b")]], "0e000000 00000000 01000000 6100 0000 01000000 6200"),
        ("a{sv}", [[("k", ("b", False))]], "10000000 00000000 01000000 6b00 016200 000000 00000000"),
    ],
)
def test_values_are_marshalled_as_the_specification_says(signature, values, wire):
    assert dbus.encode(signature, values).hex() == wire.replace(" ", "")


@pytest.mark.parametrize(
    ("signature", "values", "read"),
    [
        ("sa(sv)", ["x", [("P", ("au", [1, 2]))]], ["x", [("P", [1, 2])]]),
        ("a(sa(sv))", [[("u", [("A", ("s", "é"))])]], [[("u", [("A", "é")])]]),
        ("nqixd", [-1, 2, -3, -4, 0.5], [-1, 2, -3, -4, 0.5]),
        ("uoss", [1, "/job/1", "x.scope", "done"], [1, "/job/1", "x.scope", "done"]),
        ("aas", [[["a"], [], ["b", "c"]]], [[["a"], [], ["b", "c"]]]),
        ("bg", [True, "a{sv}"], [True, "a{sv}"]),
    ],
)
def test_what_was_encoded_is_read_back(signature, values, read):
    assert dbus.decode(signature, dbus.encode(signature, values)) == read


@pytest.mark.parametrize(("signature", "values"), [("ss", ["one"]), ("(ss)", [("one",)]), ("?", [1])])
def test_values_that_do_not_fit_their_signature_are_an_error(signature, values):
    with pytest.raises((ValueError, IndexError)):
        dbus.encode(signature, values)


def test_a_call_is_byte_for_byte_what_jeepney_sends():
    properties = [
        ("PIDs", ("au", [42])),
        ("Delegate", ("b", True)),
        ("MemoryMax", ("t", 1 << 20)),
        ("DeviceAllow", ("a(ss)", [("/dev/char/1:3", "rwm")])),
        ("AllowedCPUs", ("ay", b"\3")),
    ]
    arguments = ("a.scope", "replace", properties, [])
    message = dbus.method_call(
        9, dbus.SYSTEMD, dbus.MANAGER_PATH, dbus.MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", arguments
    )
    assert message.hex() == JEEPNEY.replace("\n", "")


JEEPNEY = """
6c010001d000000009000000b600000001016f00190000002f6f72672f667265656465736b746f702f73797374656d64
310000000000000002017300200000006f72672e667265656465736b746f702e73797374656d64312e4d616e61676572
0000000000000000030173001200000053746172745472616e7369656e74556e69740000000000000601730018000000
6f72672e667265656465736b746f702e73797374656d6431000000000000000008016700107373612873762961287361
287376292900000007000000612e73636f706500070000007265706c61636500a9000000000000000400000050494473
0002617500000000040000002a0000000800000044656c6567617465000162000100000000000000090000004d656d6f
72794d6178000174000000000000000000001000000000000b000000446576696365416c6c6f77000561287373290000
1c000000000000000d0000002f6465762f636861722f313a330000000300000072776d00000000000b000000416c6c6f
776564435055730002617900010000000300000000000000
"""


# With a peer


class Peer:
    """A socket that answers with what the test gives it; received holds what the client sent."""

    def __init__(self, path: Path, serve: Callable[[Peer, socket.socket], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.received = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._run, args=(serve,), daemon=True)
        self._thread.start()

    def _run(self, serve: Callable[[Peer, socket.socket], None]) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.settimeout(5)
            serve(self, connection)

    def wait_for(self, connection: socket.socket, what: bytes) -> None:
        while what not in self.received:
            data = connection.recv(4096)
            assert data, self.received
            self.received += data

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


def let_in(peer: Peer, connection: socket.socket) -> None:
    peer.wait_for(connection, b"BEGIN\r\n")
    connection.sendall(OK)


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Peer]]:
    """peers(name, serve): a peer at $XDG_RUNTIME_DIR/name."""
    monkeypatch.setitem(os.environ, "XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(
        dbus.kernel, "getenv", lambda name: str(tmp_path) if name == "XDG_RUNTIME_DIR" else None
    )
    made: list[Peer] = []

    def make(name: str, serve: Callable[[Peer, socket.socket], None]) -> Peer:
        made.append(Peer(tmp_path / name, serve))
        return made[-1]

    yield make
    for peer in made:
        peer.close()


def reply(
    serial: int, signature: str, *values: object, kind: int = dbus.METHOD_RETURN, **more: object
) -> bytes:
    fields = [(dbus.REPLY_SERIAL, ("u", serial))]
    if signature:
        fields.append((dbus.SIGNATURE, ("g", signature)))
    if "error" in more:
        fields.append((dbus.ERROR_NAME, ("s", more["error"])))
    return _message(kind, fields, signature, values)


def job_removed(job: str, result: str) -> bytes:
    fields = [
        (dbus.PATH, ("o", dbus.MANAGER_PATH)),
        (dbus.INTERFACE, ("s", dbus.MANAGER)),
        (dbus.MEMBER, ("s", "JobRemoved")),
        (dbus.SIGNATURE, ("g", "uoss")),
    ]
    return _message(dbus.SIGNAL, fields, "uoss", (1, job, "x.scope", result))


def _message(kind: int, fields: list, signature: str, values: tuple) -> bytes:
    body = dbus.encode(signature, values)
    head = bytes((ord("l"), kind, 0, 1)) + len(body).to_bytes(4, "little") + (77).to_bytes(4, "little")
    # Fields start at byte 12 of the message, which is a multiple of 4 but not of 8: the array's
    # length comes first, and its structs are aligned to the message's start.
    array = dbus.encode("uuua(yv)", (0, 0, 0, fields))[12:]
    head += array
    return head + bytes(-len(head) % 8) + body


def test_the_socket_of_systemd_itself_needs_no_greeting_of_a_bus(peers):
    def serve(peer, connection):
        let_in(peer, connection)
        peer.wait_for(connection, b"StartUnit")
        connection.sendall(job_removed("/job/7", "done") + reply(1, "o", "/job/7"))

    peer = peers("systemd/private", serve)
    with dbus.Bus(user=True) as bus:
        (job,) = bus.call("StartUnit", "ss", "x.scope", "replace")
        assert job == "/job/7"
        assert bus.wait_for_job(job) == "done"  # the signal came before the answer
    assert peer.received.startswith(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
    assert b"Hello" not in peer.received


def test_the_bus_is_the_fallback_and_is_told_which_signals_matter(peers):
    def serve(peer, connection):
        peer.wait_for(connection, b"JobRemoved")
        connection.sendall(OK + reply(1, "s", ":1.5") + reply(2, ""))
        peer.wait_for(connection, b"StartUnit")
        connection.sendall(reply(3, "o", "/job/1"))
        time.sleep(0.05)
        signal = job_removed("/job/1", "failed")
        connection.sendall(signal[:30])  # in two parts
        time.sleep(0.05)
        connection.sendall(signal[30:])

    peer = peers("bus", serve)
    with dbus.Bus(user=True) as bus:
        (job,) = bus.call("StartUnit", "ss", "x.scope", "replace")
        assert bus.wait_for_job(job) == "failed"
    assert (
        peer.received.index(b"Hello") < peer.received.index(b"JobRemoved") < peer.received.index(b"StartUnit")
    )


def test_an_answer_that_does_not_come_in_time_is_etimedout(peers):
    release = threading.Event()

    def serve(peer, connection):
        let_in(peer, connection)
        release.wait(5)

    peers("systemd/private", serve)
    with dbus.Bus(user=True) as bus:
        with pytest.raises(TimeoutError):
            bus.call("StartUnit", "ss", "x.scope", "replace", timeout=0.1)
        with pytest.raises(TimeoutError):
            bus.wait_for_job("/job/1", timeout=0.1)
    release.set()


def test_a_queue_of_others_at_the_socket_is_waited_for(peers, tmp_path, monkeypatch):
    """As it was seen with many containers at once: a socket that does not block gets EAGAIN there."""
    (tmp_path / "systemd").mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "systemd/private"))
    listener.listen(0)
    others = [socket.socket(socket.AF_UNIX)]
    others[0].connect(str(tmp_path / "systemd/private"))  # the queue is full now
    accepted: list[socket.socket] = []

    def accept() -> None:
        time.sleep(0.2)
        for _ in range(2):
            accepted.append(listener.accept()[0])
        accepted[-1].sendall(OK)

    thread = threading.Thread(target=accept)
    thread.start()
    with dbus.Bus(user=True):
        thread.join(5)
    others.append(socket.socket(socket.AF_UNIX))
    others[-1].connect(str(tmp_path / "systemd/private"))
    monkeypatch.setattr(dbus, "TIMEOUT", 1)
    monkeypatch.setattr(dbus, "addresses", lambda user: [(os.fsencode(tmp_path / "systemd/private"), user)])
    with pytest.raises(OSError, match="Connection timed out"):
        dbus.Bus(user=True)
    for each in (*others, *accepted, listener):
        each.close()


def test_a_closed_connection_is_an_error(peers):
    peers("systemd/private", let_in)
    with dbus.Bus(user=True) as bus, pytest.raises((ConnectionResetError, BrokenPipeError)):
        bus.call("StartUnit", "ss", "x.scope", "replace")


def test_an_error_of_the_peer_has_its_name_and_text(peers):
    name = "org.freedesktop.systemd1.NoSuchUnit"

    def serve(peer, connection):
        let_in(peer, connection)
        peer.wait_for(connection, b"StopUnit")
        connection.sendall(reply(1, "s", "not loaded", kind=dbus.ERROR, error=name))

    peers("systemd/private", serve)
    with dbus.Bus(user=True) as bus, pytest.raises(dbus.DBusError) as caught:
        bus.call("StopUnit", "ss", "x.scope", "replace")
    assert (caught.value.name, str(caught.value)) == (name, "not loaded")


def test_a_refusal_at_the_bus_says_so(peers):
    def serve(peer, connection):
        peer.wait_for(connection, b"JobRemoved")
        connection.sendall(b"REJECTED EXTERNAL\r\n")

    peers("bus", serve)
    with pytest.raises(OSError, match="does not let us in: REJECTED"):
        dbus.Bus(user=True)


def test_without_a_socket_the_last_place_looked_at_is_named(peers, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        dbus.Bus(user=True)
    assert caught.value.filename == f"{tmp_path}/bus".encode()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("unix:path=/run/bus,guid=00", [b"/run/bus"]),
        ("unix:abstract=/tmp/x;tcp:host=a;unix:path=/b%20c", [b"\0/tmp/x", b"/b c"]),
        ("unix:runtime=yes", []),
        ("", []),
    ],
)
def test_bus_addresses(text, found):
    assert dbus.parse_address(text) == found


def test_a_message_of_another_byte_order_or_an_absurd_size_is_refused():
    for head in (b"B\x02\x00\x01", b"l\x02\x00\x01\xff\xff\xff\xff"):
        with pytest.raises(OSError, match="not a D-Bus message"):
            dbus.split_message(head + bytes(16))

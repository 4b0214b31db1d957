"""The notify socket: what is passed on to the service manager."""

from __future__ import annotations

import _socket
import os
import socket
import stat
from types import SimpleNamespace

import pytest

from ocirt import notify
from ocirt.errors import StepError


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """The service manager's socket; kernel.getenv says it is in our environment."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(str(tmp_path / "manager"))
    server.settimeout(5)
    monkeypatch.setattr(notify.kernel, "getenv", {"NOTIFY_SOCKET": str(tmp_path / "manager")}.get)
    yield server
    server.close()


@pytest.fixture
def relay(tmp_path):
    directory = tmp_path / ("long" * 40) / "notify"
    directory.parent.mkdir()
    notify.prepare(str(directory))
    relay = notify.Relay(str(directory), 77)
    relay.path = directory / "notify.sock"
    yield relay
    relay.close()


def test_a_link_that_the_container_puts_in_the_sockets_place_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.touch(0o600)
    place = tmp_path / "notify/notify.sock"
    notify.prepare(str(place.parent))

    class Overtaken(_socket.socket):
        def bind(self, address):
            super().bind(address)
            place.unlink()
            place.symlink_to(victim)

    monkeypatch.setattr(notify, "_socket", SimpleNamespace(socket=Overtaken, AF_UNIX=1, SOCK_DGRAM=2))
    with pytest.raises(StepError, match=r"NOTIFY_SOCKET .*: bind: Socket operation on non-socket"):
        notify.Relay(str(place.parent), 77)
    assert stat.S_IMODE(victim.stat().st_mode) == 0o600


def tell(relay, message):
    """What the container sends, by a path that may be longer than sun_path."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    fd = os.open(relay.path.parent, os.O_PATH)
    sender.sendto(message, f"/proc/self/fd/{fd}/notify.sock")
    os.close(fd)
    sender.close()
    relay.receive()


@pytest.mark.parametrize(
    ("message", "passed", "ready"),
    [
        (b"READY=1", b"READY=1\nMAINPID=77", True),
        (b"READY=1\nMAINPID=1\nSTATUS=up\n", b"READY=1\nSTATUS=up\nMAINPID=77", True),
        (b"STATUS=half way", b"STATUS=half way", False),
        (b"STOPPING=1", b"STOPPING=1", False),
    ],
)
def test_readiness_and_status_are_passed_on_with_the_pid_outside(relay, manager, message, passed, ready):
    tell(relay, message)
    assert manager.recv(100) == passed
    assert relay.ready is ready


@pytest.mark.parametrize("message", [b"MAINPID=1", b"FDSTORE=1", b"WATCHDOG=1", b"", b"\xff"])
def test_what_would_mean_something_else_outside_is_not(relay, manager, message):
    tell(relay, message)
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_every_user_inside_may_write_to_the_socket(relay):
    assert stat.S_IMODE(relay.path.stat().st_mode) == 0o777
    assert stat.S_IMODE(relay.path.parent.stat().st_mode) == 0o755


def test_the_socket_can_be_bound_again(relay):
    again = notify.Relay(str(relay.path.parent), 78)
    again.close()


def test_an_abstract_address_is_understood():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(f"\0octest-{os.getpid()}")
    notify.send(f"@octest-{os.getpid()}", b"READY=1")
    assert server.recv(100) == b"READY=1"
    server.close()


def test_a_manager_that_is_gone_is_told_by_the_variables_name(tmp_path):
    with pytest.raises(StepError) as caught:
        notify.send(str(tmp_path / "nosuch"), b"READY=1")
    assert str(caught.value) == f"NOTIFY_SOCKET ({tmp_path}/nosuch): sendto: No such file or directory"

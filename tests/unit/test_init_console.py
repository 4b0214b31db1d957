"""The container's terminal: as an ordinary user in a user namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import socket
import struct
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.initrun import Sandbox, received_fd, user_directory

ON_DEV_CONSOLE = 1
SOCKET = re.compile(r"socket:\[\d+\]")


@pytest.fixture
def root() -> Iterator[Path]:
    with user_directory() as directory:
        directory.chmod(0o777)
        yield directory


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def with_devpts(root: Path) -> Sandbox:
    sandbox = Sandbox(root).enter()
    mount = sandbox.plan.register("devpts")
    sandbox.add("new_fs", mount, b"devpts", [b"newinstance", b"ptmxmode=0666", b"mode=0620"], 0)
    return sandbox.attach(mount, b"dev/pts")


def console(sandbox: Sandbox, theirs: socket.socket, rows: int = 0, cols: int = 0, flags: int = 0) -> None:
    sandbox.keep.append(theirs.fileno())
    sandbox.add("setsid").add("make_console", sandbox.root, theirs.fileno(), rows, cols, flags)


def inherited_sockets() -> set[str]:
    """What whoever started the tests left open for every program that is started below them."""
    found = set()
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if os.get_inheritable(fd):
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the one of listdir itself
            continue
    return found


def read_all(fd: int) -> str:
    text = b""
    while select.select([fd], [], [], 5)[0]:
        try:
            more = os.read(fd, 4096)
        except OSError:  # EIO: the last user of the other end has gone
            break
        if not more:
            break
        text += more
    os.close(fd)
    return text.decode().replace("\r\n", "\n")


def test_the_master_arrives_and_the_program_has_the_terminal(
    root: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    not_from_here = inherited_sockets()
    sandbox = with_devpts(root)
    console(sandbox, theirs, 33, 99, ON_DEV_CONSOLE)
    register = sandbox.plan.register("cwd")
    sandbox.add("open_in_root", register, sandbox.root, b"dev", os.O_RDONLY).add("fchdir", register)
    sandbox.script(
        "stty size; test -t 0 && test -t 1 && test -t 2 && echo terminal; : < /dev/tty && echo controlling;"
        "stat -c %t:%T ./console | grep -q 88: && echo console; ls -l /proc/self/fd >&2"
    )
    sandbox.run().expect_success()
    master, payload = received_fd(ours)
    assert payload == b"/dev/ptmx"
    size = fcntl.ioctl(master, termios.TIOCGWINSZ, bytes(8))
    assert struct.unpack("<4H", size)[:2] == (33, 99)
    text = read_all(master)
    assert text.startswith("33 99\nterminal\ncontrolling\nconsole\n")
    assert text.count("dev/pts/0\n") == 3
    assert "ptmx" not in text
    assert set(SOCKET.findall(text)) <= not_from_here


def test_dev_ptmx_serves_where_dev_pts_ptmx_is_a_fake(
    root: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    (root / "dev/pts").mkdir(parents=True)
    os.mkfifo(root / "dev/pts/ptmx")
    (root / "dev/ptmx").symlink_to("real/ptmx")
    sandbox = Sandbox(root).enter()
    mount = sandbox.plan.register("devpts")
    sandbox.add("new_fs", mount, b"devpts", [b"newinstance", b"ptmxmode=0666"], 0).attach(mount, b"dev/real")
    console(sandbox, theirs)
    sandbox.run().expect_success()
    os.close(received_fd(ours)[0])


@pytest.mark.parametrize("kind", ["fifo", "file", "link", "missing"])
def test_what_is_no_ptmx_is_refused(root: Path, kind: str, pair: tuple[socket.socket, socket.socket]) -> None:
    _, theirs = pair
    (root / "dev/pts").mkdir(parents=True)
    for path in (root / "dev/pts/ptmx", root / "dev/ptmx"):
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "file":
            path.touch()
        elif kind == "link":
            path.symlink_to("/dev/zero")
    sandbox = Sandbox(root).enter()
    console(sandbox, theirs)
    sandbox.run().expect(errno.ENOENT if kind in ("link", "missing") else errno.ENODEV)


def test_a_console_socket_that_is_gone_is_an_error(root: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs:
        sandbox = with_devpts(root)
        console(sandbox, theirs)
        sandbox.run().expect(errno.EPIPE, "sendmsg")


def test_dev_console_is_not_made_through_a_link(
    root: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    # CVE-2026-88264
    _, theirs = pair
    sandbox = with_devpts(root)
    (root / "dev").mkdir()
    (root / "dev/console").symlink_to("/../../outside")
    console(sandbox, theirs, flags=ON_DEV_CONSOLE)
    sandbox.run().expect_success()
    assert (root / "outside").is_file()
    assert not (root.parent / "outside").exists()

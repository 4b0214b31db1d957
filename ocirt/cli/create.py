"""create: make a container whose program waits for start."""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.cli.parse import BOOL, NUMBER, TEXT, expect
from ocirt.container import Container
from ocirt.errors import UsageError
from ocirt.options import CreateOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.cli import Call
    from ocirt.options import ExecOptions

OPTIONS: dict[str, int | str] = {
    "bundle": TEXT,
    "b": "bundle",
    "config": TEXT,
    "f": "config",
    "console-socket": TEXT,
    "pidfd-socket": TEXT,
    "pid-file": TEXT,
    "no-pivot": BOOL,
    "no-new-keyring": BOOL,
    "preserve-fds": NUMBER,
    "trace": TEXT,
}
MANAGERS = ("cgroupfs", "systemd", "disabled")
ROOTLESS = ("auto", "true", "false")


def run(call: Call) -> int:
    expect("create", call.words, 1, 1)
    container_id = call.words[0]
    container = Container.create(
        call.values.get("bundle") or ".",
        container_id,
        root=call.root,
        options=create_options(call, container_id),
        on_created=pidfd_sender(call),
    )
    for warning in container.warnings:
        call.log.warning(warning)
    return 0


def create_options(call: Call, container_id: str) -> CreateOptions:
    """The options of create and run, and what the environment adds to them."""
    values = call.values
    manager = call.given.get("cgroup_manager", "")
    if manager and manager not in MANAGERS:
        raise UsageError(f"invalid cgroup-manager: {manager}")
    rootless = call.given.get("rootless", "auto")
    if rootless not in ROOTLESS:
        raise UsageError(f"invalid rootless: {rootless}")
    options = CreateOptions(
        cgroup_manager=manager or "cgroupfs",
        config_file=values.get("config"),
        console_socket=values.get("console_socket"),
        no_new_keyring=values.get("no_new_keyring", False),
        no_pivot=values.get("no_pivot", False),
        pid_file=values.get("pid_file"),
        preserve_fds=values.get("preserve_fds", 0),
        rootless=rootless,
        systemd_cgroup=call.given.get("systemd_cgroup", False) or manager == "systemd",
        trace=values.get("trace"),
    )
    if kernel.getenv("NOTIFY_SOCKET"):
        from ocirt.notify import INSIDE

        options.notify_directory = f"{call.root}/{container_id}/notify"
        options.environment = (f"NOTIFY_SOCKET={INSIDE}",)
    pass_listen_fds(options)
    return options


def pass_listen_fds(options: CreateOptions | ExecOptions) -> None:
    """Sockets from systemd's activation come first among the preserved fds (sd_listen_fds(3))."""
    count = kernel.getenv("LISTEN_FDS") or ""
    # Another pid: meant for another process, and left in the environment by it. 1: an engine that
    # hands them on writes what the program inside is to see.
    if kernel.getenv("LISTEN_PID") not in (None, "1", str(posix.getpid())):
        return
    if count.isascii() and count.isdigit() and 0 < int(count) < 1 << 16:
        options.preserve_fds += int(count)
        options.environment += (f"LISTEN_FDS={count}", "LISTEN_PID=1")
        names = kernel.getenv("LISTEN_FDNAMES")
        if names:
            options.environment += (f"LISTEN_FDNAMES={names}",)


def pidfd_sender(call: Call) -> Callable[[Any], None] | None:
    """What --pidfd-socket asks for, to be called when the process exists; None without it."""
    path = call.values.get("pidfd_socket")
    if not path:
        return None
    from ocirt.unixsocket import connect

    connection = connect(path, "--pidfd-socket")
    return lambda created: kernel.send_fd(connection, created.pidfd, b"pidfd")

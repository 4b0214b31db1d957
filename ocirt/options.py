"""What a caller may ask of create, run and exec beyond config.json; absent means the default."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Options:
    __slots__ = ()
    DEFAULTS: tuple[tuple[str, Any], ...] = ()

    def __init__(self, **given: Any) -> None:
        for name, value in self.DEFAULTS:
            setattr(self, name, given.pop(name, value))
        if given:
            raise TypeError(f"{type(self).__name__} has no {', '.join(given)}")


class CreateOptions(_Options):
    """config_file: in place of BUNDLE/config.json. console_socket: path that gets the terminal's
    master. preserve_fds: how many fds from 3 on the program inherits. rootless: "auto", "true" or
    "false". trace: file for the times of all steps. environment: NAME=value words added to
    process.env. notify_directory: directory on the host, shown inside as /run/notify.
    """

    __slots__ = (
        "cgroup_manager",
        "config_file",
        "console_socket",
        "environment",
        "no_new_keyring",
        "no_pivot",
        "notify_directory",
        "pid_file",
        "preserve_fds",
        "rootless",
        "systemd_cgroup",
        "trace",
    )
    DEFAULTS = (
        ("cgroup_manager", "cgroupfs"),
        ("config_file", None),
        ("console_socket", None),
        ("environment", ()),
        ("no_new_keyring", False),
        ("no_pivot", False),
        ("notify_directory", None),
        ("pid_file", None),
        ("preserve_fds", 0),
        ("rootless", "auto"),
        ("systemd_cgroup", False),
        ("trace", None),
    )
    if TYPE_CHECKING:
        cgroup_manager: str
        config_file: str | None
        console_socket: str | None
        environment: tuple[str, ...]
        no_new_keyring: bool
        no_pivot: bool
        notify_directory: str | None
        pid_file: str | None
        preserve_fds: int
        rootless: str
        systemd_cgroup: bool
        trace: str | None


class ExecOptions(_Options):
    """cgroups: paths below the container's cgroup, CONTROLLER[,CONTROLLER]:PATH or PATH.

    ignore_paused: also in a paused container, where the process waits for resume.
    console_socket, environment, pid_file, preserve_fds, trace: as for create.
    """

    __slots__ = (
        "cgroups",
        "console_socket",
        "environment",
        "ignore_paused",
        "pid_file",
        "preserve_fds",
        "trace",
    )
    DEFAULTS = (
        ("cgroups", ()),
        ("console_socket", None),
        ("environment", ()),
        ("ignore_paused", False),
        ("pid_file", None),
        ("preserve_fds", 0),
        ("trace", None),
    )
    if TYPE_CHECKING:
        cgroups: tuple[str, ...]
        console_socket: str | None
        environment: tuple[str, ...]
        ignore_paused: bool
        pid_file: str | None
        preserve_fds: int
        trace: str | None

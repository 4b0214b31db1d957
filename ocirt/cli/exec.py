"""exec: another process in a running container."""

from __future__ import annotations

from ocirt.cli.create import pass_listen_fds, pidfd_sender
from ocirt.cli.parse import BOOL, LIST, NUMBER, TEXT, expect
from ocirt.container import Container
from ocirt.errors import OcirtError, SpecError
from ocirt.options import ExecOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {
    "console-socket": TEXT,
    "pidfd-socket": TEXT,
    "cwd": TEXT,
    "env": LIST,
    "e": "env",
    "tty": BOOL,
    "t": "tty",
    "user": TEXT,
    "u": "user",
    "additional-gids": LIST,
    "g": "additional-gids",
    "process": TEXT,
    "p": "process",
    "detach": BOOL,
    "d": "detach",
    "pid-file": TEXT,
    "process-label": TEXT,
    "apparmor": TEXT,
    "no-new-privs": BOOL,
    "cap": LIST,
    "c": "cap",
    "preserve-fds": NUMBER,
    "cgroup": LIST,
    "ignore-paused": BOOL,
    "trace": TEXT,
}


def run(call: Call) -> int:
    expect("exec", call.words, 1)
    values = call.values
    container = Container.load(call.words[0], call.root)
    process = build_process(container, values, call.words[1:])
    options = ExecOptions(
        cgroups=tuple(values.get("cgroup", ())),
        console_socket=values.get("console_socket"),
        ignore_paused=values.get("ignore_paused", False),
        pid_file=values.get("pid_file"),
        preserve_fds=values.get("preserve_fds", 0),
        trace=values.get("trace"),
    )
    pass_listen_fds(options)
    send_pidfd = pidfd_sender(call)
    if values.get("detach"):
        started = container.exec(process, options, on_ready=send_pidfd)
        status, warnings = 0, started.warnings
    else:
        from ocirt.foreground import exec_in

        status, warnings = exec_in(container, process, options, on_ready=send_pidfd, leaving=True)
    for warning in warnings:
        call.log.warning(warning)
    return status


MERGED = ("env", "user", "additional_gids", "cap")  # options that add to a member of the process


def build_process(container: Container, values: dict[str, Any], command: list[str]) -> dict[str, Any]:
    """The process object: --process FILE, or the container's own with the command; then options."""
    if values.get("process"):
        from ocirt.spec.check import check_process
        from ocirt.spec.load import load

        if command:
            raise OcirtError("a command was given although --process names a file with one")
        process = load(values["process"])
        if any(name in values for name in MERGED):
            check_process(process)  # before something is added to it
        if isinstance(process, dict):
            _inherit(process, container)
    else:
        if not command:
            raise OcirtError("exec args cannot be empty")
        process = dict(container.spec.get("process") or {})
        process["args"] = command
        process["terminal"] = False
    for option, field in (
        ("cwd", "cwd"),
        ("apparmor", "apparmorProfile"),
        ("process_label", "selinuxLabel"),
    ):
        if values.get(option):
            process[field] = values[option]
    for option, field in (("tty", "terminal"), ("no_new_privs", "noNewPrivileges")):
        if option in values:
            process[field] = values[option]
    if "env" in values:
        process["env"] = [*(process.get("env") or ()), *values["env"]]
    if "user" in values or "additional_gids" in values:
        process["user"] = _user(process.get("user") or {}, values)
    if "cap" in values:
        process["capabilities"] = _capabilities(process.get("capabilities") or {}, values["cap"])
    return process


def _inherit(process: dict[str, Any], container: Container) -> None:
    """What --process FILE leaves out and the container's own process has, as with runc.

    Only these: rlimits, noNewPrivileges and the rest are as the file says. Capabilities that are
    given as {} are none.
    """
    own = container.spec.get("process") or {}
    if process.get("capabilities") is None and own.get("capabilities") is not None:
        process["capabilities"] = own["capabilities"]
    for label in ("apparmorProfile", "selinuxLabel"):
        if not process.get(label) and own.get(label):
            process[label] = own[label]


def _user(user: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    from ocirt.process import NO_ID, is_decimal, parse_user

    user = dict(user)
    if "user" in values:
        user["uid"], gid = parse_user(values["user"])
        if gid is not None:
            user["gid"] = gid
    added = values.get("additional_gids", ())
    for text in added:
        if not is_decimal(text) or int(text) >= NO_ID:
            raise SpecError("--additional-gids", f"{text!r} is not a number below {NO_ID}")
    user["additionalGids"] = [*(user.get("additionalGids") or ()), *map(int, added)]
    return user


def _capabilities(sets: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """--cap adds to what the process may use; never to the inheritable set (CVE-2022-29162)."""
    from ocirt.capabilities import parse

    _, unknown = parse(names)
    if unknown:
        raise SpecError("--cap", f"{unknown[0]!r} is not a capability of this kernel")
    sets = dict(sets)
    for name in ("bounding", "effective", "permitted"):
        sets[name] = list(dict.fromkeys([*(sets.get(name) or ()), *names]))
    return sets

"""Run ocirt-init on a plan without the runtime: what the op tests and the fuzzer use."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ocirt import kernel
from ocirt.plan import AT_FDCWD, SYNC_MAPS, Plan

INIT = Path(__file__).resolve().parents[2] / "ocirt" / "ocirt-init"
REPORT = struct.Struct("<IIii24s")
ANSWER = struct.Struct("<II")
PID, SYNC, ERROR, EXEC, TRACE = 1, 2, 3, 4, 5
NO_STEP = 0xFFFFFFFF
ORDINARY_USER = 23456  # as whom the tests run it when they are root themselves


class Message(NamedTuple):
    type: int
    step: int
    error: int
    value: int
    call: str
    text: bytes


class Result(NamedTuple):
    messages: list[Message]
    status: int  # of the first stage, or of the only one: exit code, or the negated signal

    @property
    def error(self) -> Message | None:
        return next((m for m in self.messages if m.type == ERROR), None)

    def expect(self, number: int, call: str | None = None) -> None:
        """The run failed with this errno (in this call)."""
        assert self.error is not None, self
        assert errno.errorcode[self.error.error] == errno.errorcode[number], self
        assert call is None or self.error.call == call, self

    def expect_success(self) -> None:
        assert self.error is None, self
        assert self.status == 0, self


def begin(
    keep: Iterable[int] = (),
    *,
    uid: int | None = None,
    stdio: tuple[int, int, int] | None = None,
    unshare: int = 0,
) -> tuple[int, socket.socket]:
    """Start ocirt-init, which waits for its plan; its pid and our end of the control socket.

    keep is inherited under its number.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    exe_fd = os.open(INIT, os.O_RDONLY)  # its directory may be closed to the user below
    pid = os.fork()
    if pid == 0:
        try:
            for fd, old in enumerate(stdio or ()):
                os.dup2(old, fd)
            for fd in (theirs.fileno(), *keep):
                os.set_inheritable(fd, True)
            if uid is not None:
                os.setgroups([])
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                # A change of ids clears it, and with it the right to write our own maps.
                _set_dumpable()
            os.execve(exe_fd, ["ocirt-init", str(theirs.fileno()), str(unshare)], {})
        finally:
            os._exit(70)
    os.close(exe_fd)
    theirs.close()
    return pid, ours


def hand_over(control: socket.socket, data: bytes, fds: Iterable[int] = ()) -> None:
    """Give the init its plan and the fds that come with it."""
    plan_fd = os.memfd_create("plan")
    os.write(plan_fd, data)
    every = [plan_fd, *fds]
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have given up already
        while every:
            some, every = every[:250], every[250:]
            socket.send_fds(control, [b"m" if every else b"p"], some)
    os.close(plan_fd)


def start(
    data: Callable[[int], bytes], keep: Iterable[int] = (), **options: Any
) -> tuple[int, socket.socket]:
    """Start ocirt-init on data(proc_fd); its pid and our end of the control socket."""
    proc_fd = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    pid, control = begin((proc_fd, *keep), **options)
    hand_over(control, data(proc_fd))
    os.close(proc_fd)
    return pid, control


def _set_dumpable() -> None:
    import ctypes

    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)


def receive(control: socket.socket, timeout: float = 10) -> Message | None:
    """The next message; None at the end. A silent init fails the test."""
    ready, _, _ = select.select([control], [], [], timeout)
    assert ready, "ocirt-init neither reports nor ends"
    try:
        packet = control.recv(4096)
    except ConnectionResetError:  # it left something of ours unread; its own words come next
        packet = control.recv(4096)
    if not packet:
        return None
    kind, step, error, value, call = REPORT.unpack_from(packet)
    return Message(kind, step, error, value, call.rstrip(b"\0").decode(), packet[REPORT.size :])


def go_on(control: socket.socket) -> None:
    control.send(ANSWER.pack(1, 0))


def exit_status(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_bytes(data: Callable[[int], bytes], keep: Iterable[int] = (), timeout: float = 10) -> Result:
    """Run arbitrary bytes as a plan; syncs are answered by closing the socket."""
    pid, control = start(data, keep)
    messages = []
    with control:
        while (message := receive(control, timeout)) is not None:
            messages.append(message)
            if message.type == SYNC:
                break
    return Result(messages, exit_status(pid))


def run(
    plan: Plan,
    keep: Iterable[int] = (),
    *,
    on_sync: Callable[[int, int], None] | None = None,
    uid: int | None = None,
    trace: bool = False,
    stdio: tuple[int, int, int] | None = None,
) -> Result:
    """Run a plan to its end. on_sync(which, pid) is what the parent does at a sync point."""
    pid, control = start(lambda proc: plan.encode(proc, trace), keep, uid=uid, stdio=stdio)
    container = pid
    messages = []
    with control:
        while (message := receive(control)) is not None:
            messages.append(message)
            if message.type == PID:
                container = message.value
            elif message.type == SYNC:
                if on_sync is not None:
                    on_sync(message.value, container)
                go_on(control)
    status = exit_status(pid)
    if container != pid:
        status = exit_status(container) or status
    return Result(messages, status)


def received_fd(connection: socket.socket) -> tuple[int, bytes]:
    """An fd that came over a unix socket, and the bytes that came with it."""
    payload, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    (_, kind, raw), *_ = control
    assert kind == socket.SCM_RIGHTS
    return array.array("i", raw[:4])[0], payload


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.005)


def kill(pid: int) -> None:
    """End an init that a test left waiting."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


class Sandbox:
    """Builds plans that run as root of a new user and mount namespace, as an ordinary user does.

    root is a directory of that user; the register that holds it is filled by the first ops.
    """

    def __init__(self, root: Path) -> None:
        self.directory = root
        self.uid = ORDINARY_USER if os.geteuid() == 0 else None
        self.plan = Plan()
        self.root = self.plan.register("root")
        self.keep: list[int] = []
        self.namespaces = kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS

    def enter(self, *more: str) -> Sandbox:
        """The namespaces; more are names such as CLONE_NEWPID."""
        for name in more:
            self.namespaces |= getattr(kernel, name)
        self.add("unshare", self.namespaces)
        self.add("sync", SYNC_MAPS)
        self.add("setresgid", 0, 0, 0)
        self.add("setresuid", 0, 0, 0)
        path = os.fsencode(self.directory)
        self.add("openat", self.root, AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY)
        return self

    def add(self, kind: str, *args: Any, tolerate: int = 0, skip: int = 0) -> Sandbox:
        self.plan.add(kind, "test", *args, tolerate=tolerate, skip=skip)
        return self

    def tmpfs(self, *options: bytes) -> int:
        """Register of a detached tmpfs."""
        register = self.plan.register("tmpfs")
        self.add("new_fs", register, b"tmpfs", list(options), 0)
        return register

    def attach(self, mount: int, path: bytes) -> Sandbox:
        place = self.plan.register("place")
        flags = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH
        self.add("target", place, self.root, path, 0, 0o755)
        return self.add("move_mount", mount, b"", place, b"", flags)

    def script(self, text: str, *env: bytes) -> Sandbox:
        """Go on as a shell of the host."""
        argv = [b"/bin/sh", b"-c", text.encode()]
        variables = [b"PATH=/usr/sbin:/usr/bin:/sbin:/bin", *env]
        self.add("find_executable", argv, variables)
        self.add("exec_follows")
        return self.add("execve", argv, variables)

    def give(self) -> None:
        """Make all of the directory the user's."""
        if self.uid is None:
            return
        for path in (self.directory, *self.directory.rglob("*")):
            status = path.lstat()
            os.chown(path, self.uid, self.uid, follow_symlinks=False)
            if not stat.S_ISLNK(status.st_mode):  # the change of owner may have taken bits away
                path.chmod(stat.S_IMODE(status.st_mode))

    def run(
        self, on_sync: Callable[[int, int], None] | None = None, *, give: bool = True, **options: Any
    ) -> Result:
        if give:
            self.give()

        def serve(which: int, pid: int) -> None:
            if which == SYNC_MAPS:
                write_maps(pid, self.uid)
            elif on_sync is not None:
                on_sync(which, pid)

        return run(self.plan, self.keep, on_sync=serve, uid=self.uid, **options)

    def output(self, text: str, **options: Any) -> str:
        """What a shell prints that is started at the end of the plan."""
        self.script(text)
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            result = self.run(stdio=(null, write, 2), **options)
        finally:
            os.close(write)
            os.close(null)
            with open(read, encoding="utf-8") as stream:
                printed = stream.read()
        assert result.error is None, result
        return printed


def write_maps(pid: int, uid: int | None) -> None:
    """Root inside is uid outside, or the user that we are."""
    outside = os.geteuid() if uid is None else uid
    group = os.getegid() if uid is None else uid
    Path(f"/proc/{pid}/setgroups").write_text("deny")
    Path(f"/proc/{pid}/uid_map").write_text(f"0 {outside} 1")
    Path(f"/proc/{pid}/gid_map").write_text(f"0 {group} 1")


@contextmanager
def user_directory() -> Iterator[Path]:
    """A directory of the ordinary user, in reach of it; removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="ocirt-test-init-"))
    try:
        if os.geteuid() == 0:
            os.chown(directory, ORDINARY_USER, ORDINARY_USER)
        yield directory
    finally:
        shutil.rmtree(directory)

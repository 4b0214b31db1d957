"""Launch: what is said when a step fails, and that everything is undone."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess

import pytest

from ocirt import launch
from ocirt.errors import CgroupError, ExecutableError, HookFailed, InitDied, StepError
from ocirt.launch import Launch
from ocirt.plan import Op, Plan
from tests.lib.compiled import context

ENOENT, EACCES, ENOEXEC, EINVAL = errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.EINVAL


def failed(kind, error, call="", text="", *, detail="", args=("nosuch",), path="/nonexistent"):
    """The error for one op of this kind."""
    ctx = context(process={"args": list(args), "env": ["PATH=/bin"]}, root={"path": path})
    op = Op("CHILD", kind, "the.field", (), detail, 0, 0)
    return launch.failure([op], 0, error, call, text, ctx)


@pytest.mark.parametrize(
    ("kind", "error", "command", "text"),
    [
        # dockerd and podman make 127 and 126 out of these
        ("find_executable", ENOENT, "nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("find_executable", ENOENT, "/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("find_executable", EACCES, "/etc", 'exec: "/etc": permission denied'),
        ("execve", ENOEXEC, "/bin/x", 'exec: "/bin/x": exec format error'),
        ("execve", EACCES, "/bin/x", 'exec: "/bin/x": permission denied'),
    ],
)
def test_the_wording_that_engines_turn_into_126_and_127(kind, error, command, text):
    found = failed(kind, error, args=(command,))
    assert type(found) is ExecutableError
    assert str(found) == text


def test_a_step_is_told_as_field_detail_call_and_reason():
    found = failed("open_tree", ENOENT, detail="/s on /d")
    assert str(found) == "the.field (/s on /d): open_tree: No such file or directory"
    assert (type(found), found.errno, found.field) == (StepError, ENOENT, "the.field")


def test_the_call_inside_a_compound_step_is_named():
    assert str(failed("target", EACCES, "mkdirat", detail="/d")) == (
        "the.field (/d): mkdirat: Permission denied"
    )


def test_the_message_of_the_file_system_is_told():
    found = failed("new_fs", EINVAL, "fsconfig", "tmpfs: Unknown parameter 'x'", detail="tmpfs on /t")
    assert str(found) == ("the.field (tmpfs on /t: tmpfs: Unknown parameter 'x'): fsconfig: Invalid argument")


def test_a_hook_inside_is_told_like_one_outside():
    found = failed("hook", 0, text="exit status 3\n1250\nso not", detail="/bin/hook")
    assert type(found) is HookFailed
    assert str(found) == "the.field (/bin/hook): exit status 3 after 1.250 s, stderr: so not"
    missing = failed("hook", ENOENT, "execve", detail="/bin/hook")
    assert str(missing).startswith("the.field (/bin/hook): no such file or directory")


@pytest.mark.parametrize("step", [launch.NO_STEP, 7])
def test_a_plan_that_the_init_refuses(step):
    found = launch.failure([], step, EINVAL, "", "bad magic", context())
    assert str(found) == "plan (bad magic): read: Invalid argument"


def a_launch(plan):
    ctx = context()
    ctx.plan = plan
    return Launch(plan, ctx)


def pipe_end():
    read, write = os.pipe()
    os.close(write)
    return read


def test_handles_are_opened_before_the_groups_are_made_and_the_late_ones_behind():
    order = []
    plan = Plan()

    def opener(name):
        def call():
            order.append(name)
            return pipe_end()

        return call

    plan.handle("late", "f", opener("late"), late=True)
    plan.handle("early", "f", opener("early"))
    plan.at("CGROUP", "f", "make", lambda _: order.append("CGROUP"))
    plan.at("OPEN", "f", "check", lambda _: order.append("OPEN"))
    started = a_launch(plan)
    started.prepare()
    started._close_handles()
    assert order == ["OPEN", "early", "CGROUP", "late"]
    assert [handle.fd for handle in plan.handles] == [-1, -1]


def test_a_handle_that_cannot_be_opened_is_told_with_its_field_and_what_was_done_is_undone():
    plan = Plan()
    fds = []
    done = []

    def opener():
        fds.append(pipe_end())
        return fds[0]

    def missing():
        return os.open("/nonexistent", os.O_RDONLY)

    plan.at("OPEN", "f", "a", lambda launch: launch.undo(lambda: done.append("first")))
    plan.at("OPEN", "f", "b", lambda launch: launch.undo(lambda: done.append("second")))
    plan.handle("good", "g", opener)
    plan.handle("/run/ns", "linux.namespaces[0].path", missing)
    with pytest.raises(StepError) as error:
        a_launch(plan).prepare()
    assert str(error.value) == "linux.namespaces[0].path (/run/ns): open: No such file or directory"
    assert done == ["second", "first"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[0])


def test_an_undo_that_fails_does_not_hide_the_others():
    done = []
    started = a_launch(Plan())

    def fails():
        raise OSError(errno.EBUSY, "busy")

    started.undo(lambda: done.append("first"))
    started.undo(fails)
    started.roll_back()
    assert done == ["first"]
    assert started.warnings == ["undo: busy"]


def test_an_undo_may_fail_in_any_way():
    done = []
    started = a_launch(Plan())

    def fails():
        raise CgroupError("linux.cgroupsPath", "rmdir /x", "", errno.EBUSY)

    started.undo(lambda: done.append("first"))
    started.undo(fails)
    started.undo(lambda: [][0])
    started.roll_back()
    assert done == ["first"]
    assert started.warnings == [
        "undo: list index out of range",
        "undo: linux.cgroupsPath: rmdir /x: Device or resource busy",
    ]


def test_a_second_stage_whose_record_nobody_read_is_killed_and_reaped(talking):
    started, init = talking
    first, second = (subprocess.Popen(["sleep", "60"]) for _ in range(2))
    started.pid, started.pidfd = first.pid, os.pidfd_open(first.pid)
    init.send(report(1, value=second.pid))
    started.abort()
    for process in (first, second):
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)
        process.returncode = -9  # reaped, and not by Popen


@pytest.fixture
def talking():
    """A launch whose init we are."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    plan = Plan()
    plan.ops = [Op("CHILD", "open_tree", "mounts[3]", (), "/data", 0, 0)]
    started = a_launch(plan)
    started.control = ours
    yield started, theirs
    theirs.close()
    started.close()


def report(kind, step=0, error=0, value=0, call=b"", text=b""):
    return struct.pack("<IIii24s", kind, step, error, value, call) + text


def test_each_sync_point_does_its_actions_and_lets_the_init_go_on(talking):
    started, init = talking
    order = []
    started.plan.at("HOOKS", "f", "a", lambda _: order.append("hooks"))
    started.plan.at("READY", "f", "b", lambda _: order.append("limits"))
    init.send(report(2, value=3))
    init.send(report(2, value=4))
    started.run_to_ready(lambda: order.append("ready"))
    assert order == ["hooks", "limits", "ready"]
    assert [init.recv(64) for _ in range(2)] == [struct.pack("<II", 1, 0)] * 2


def test_the_end_after_the_exec_record_is_success(talking):
    started, init = talking
    init.send(report(4))
    init.close()
    started.await_exec()


def test_the_end_without_it_is_a_death(talking):
    started, init = talking
    init.close()
    with pytest.raises(InitDied, match="ocirt-init ended before"):
        started.await_exec()


def test_an_error_after_the_exec_record_reaches_the_caller(talking):
    started, init = talking
    init.send(report(4))
    init.send(report(3, 0, errno.EBUSY, call=b"move_mount"))
    with pytest.raises(StepError, match=r"mounts\[3\] \(/data\): move_mount: Device or resource busy"):
        started.await_exec()


def test_an_error_before_ready_undoes_everything(talking):
    started, init = talking
    done = []
    started.undo(lambda: done.append("undone"))
    init.send(report(3, 0, ENOENT))
    with pytest.raises(StepError):
        started.run_to_ready(lambda: done.append("ready"))
    assert done == ["undone"]
    assert init.recv(64) == b""  # our end is closed: the init gives up


def test_a_record_that_nobody_knows_is_an_error(talking):
    started, init = talking
    init.send(report(99))
    with pytest.raises(InitDied, match="unknown record 99"):
        started.await_exec()

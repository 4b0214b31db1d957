"""ocirt-init and the plan itself: checks, order, failures, sync points, traces, its size."""

from __future__ import annotations

import errno
import os
import random
import resource
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ocirt import kernel
from ocirt.plan import _HEADER, _OP, AT_FDCWD, MAX_FDS, SYNC_HOOKS, SYNC_READY, SYNC_SCOPE, Plan
from tests.lib import initrun
from tests.lib.initrun import ERROR, EXEC, NO_STEP, SYNC, TRACE, Sandbox


def plan_of(*ops: tuple[object, ...]) -> Plan:
    plan = Plan()
    for kind, *args in ops:
        plan.add(str(kind), "test", *args)
    return plan


def rich_plan() -> Plan:
    """One of nearly everything, behind an op that fails: nothing of it is ever carried out."""
    plan = plan_of(("close", -1))
    root = plan.register("root")
    env = [b"PATH=/bin", b"HOME="]
    plan.add("openat", "test", root, AT_FDCWD, b"/", os.O_PATH)
    plan.add("setgroups", "test", 2, struct.pack("<2I", 1, 2))
    plan.add("sched_setattr", "test", 0, struct.pack("<I44x", 48), 0)
    plan.add("sched_setaffinity", "test", 0, 8, bytes(8))
    plan.add("mount_setattr", "test", root, b"", 0, bytes(32))
    plan.add("write_file", "test", root, b"etc/x", b"data", os.O_WRONLY, tolerate=errno.ENOENT, skip=2)
    plan.add("new_fs", "test", plan.mount_register, b"tmpfs", [b"mode=755", b"size=1m"], 0)
    plan.add("old_mount", "test", None, root, b"proc", 0, None)
    plan.add("hook", "test", b"/bin/true", [b"true"], env, b'{"pid":          }', 10)
    plan.add("seccomp", "test", bytes(16), 0)
    plan.add("set_home", "test", root, env, 1, 0)
    plan.add("find_executable", "test", [b"true"], env)
    plan.add("execve", "test", [b"true"], env)
    return plan


def refusal(data: bytes | Callable[[int], bytes]) -> str:
    """Run a plan that is malformed; what the init has against it."""
    result = initrun.run_bytes(data if callable(data) else lambda _proc: data)
    assert result.status == 1, result
    (message,) = result.messages
    assert (message.type, message.step, message.error, message.call) == (ERROR, NO_STEP, errno.EINVAL, "plan")
    return message.text.decode()


def patched(offset: int, layout: str, value: int) -> Callable[[int], bytes]:
    def data(proc: int) -> bytes:
        raw = bytearray(rich_plan().encode(proc))
        struct.pack_into(layout, raw, offset, value)
        return bytes(raw)

    return data


def op_field(index: int, field: str) -> int:
    """Offset of a field of an op: kind, skip, tolerate or the number of an argument."""
    base = _HEADER.size + index * _OP.size
    return base + {"kind": 0, "skip": 2, "tolerate": 4}.get(
        field, 8 + 8 * int(field) if field.isdigit() else 0
    )


def index_of(kind: str) -> int:
    return next(i for i, op in enumerate(rich_plan().ops) if op.kind == kind)


def test_the_rich_plan_is_well_formed() -> None:
    initrun.run(rich_plan()).expect(errno.EBADF)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "reason"),
    [
        (0, "<Q", 1, "header"),
        (8, "<I", 4096, "header"),
        (12, "<I", 0xFFFFFFFF, "number of operations"),
        (16, "<I", 2, "flags"),
        (28, "<I", 1, "reserved"),
        (op_field(1, "kind"), "<H", 0, "kind"),
        (op_field(1, "kind"), "<H", 60000, "kind"),
        (op_field(1, "skip"), "<H", 1, "tolerate"),
        (op_field(1, "tolerate"), "<i", -2, "tolerate"),
        (op_field(index_of("write_file"), "skip"), "<H", 500, "skip"),
        (op_field(index_of("openat"), "0"), "<q", 32, "register"),
        (op_field(index_of("openat"), "0"), "<q", -1, "register"),
        (op_field(index_of("openat"), "1"), "<q", -2, "fd"),
        (op_field(index_of("openat"), "1"), "<q", -1032, "fd"),
        (op_field(index_of("openat"), "1"), "<q", 1 << 31, "fd"),
        (op_field(index_of("openat"), "2"), "<Q", 1 << 40, "string"),
        (op_field(index_of("openat"), "2"), "<Q", 64, "string"),
        (op_field(index_of("openat"), "4"), "<Q", 1, "surplus argument"),
        (op_field(index_of("setgroups"), "0"), "<Q", 1 << 62, "data"),
        (op_field(index_of("setgroups"), "0"), "<Q", 5000, "data"),
        (op_field(index_of("setgroups"), "1"), "<Q", 0, "data"),
        (op_field(index_of("sched_setaffinity"), "1"), "<Q", 1 << 20, "data"),
        (op_field(index_of("mount_setattr"), "4"), "<Q", 1 << 63, "blob"),
        (op_field(index_of("mount_setattr"), "3"), "<Q", 0, "blob"),
        (op_field(index_of("execve"), "0"), "<Q", 4, "vector"),
        (op_field(index_of("execve"), "1"), "<Q", 1 << 33, "vector"),
    ],
)
def test_a_malformed_plan_is_refused(offset: int, layout: str, value: int, reason: str) -> None:
    assert refusal(patched(offset, layout, value)) == reason


def test_a_string_without_its_end_is_refused() -> None:
    def data(proc: int) -> bytes:
        plan = plan_of(("close", -1), ("chdir", b"/tmp"))
        raw = bytearray(plan.encode(proc))
        assert raw[-1:] == b"\0"
        raw[-1:] = b"x"
        return bytes(raw)

    assert refusal(data) == "string"


def test_a_vector_without_its_end_is_refused() -> None:
    def data(proc: int) -> bytes:
        raw = plan_of(("close", -1), ("find_executable", [b"a", b"b"], None)).encode(proc)
        return raw[:8] + struct.pack("<I", len(raw) - 8) + raw[12:-8]

    assert refusal(data) == "vector"


@pytest.mark.parametrize("data", [b"", b"OCPLN01", bytes(63)])
def test_what_is_no_plan_at_all_ends_without_a_signal(data: bytes) -> None:
    result = initrun.run_bytes(lambda _proc: data)
    assert (result.messages, result.status) == ([], 1)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["3"],
        ["-1", "0"],
        ["x", "0"],
        ["99999999999", "0"],
        ["77", "0"],
        ["0", "0"],
        ["0", "x"],
        ["0", "0", "0"],
    ],
)
def test_a_command_line_that_names_no_socket_ends_without_a_signal(words: list[str]) -> None:
    assert subprocess.run([initrun.INIT, *words], stdin=subprocess.DEVNULL).returncode == 1


def test_the_end_of_the_parent_is_the_end_of_an_init_without_a_plan() -> None:
    pid, control = initrun.begin()
    control.close()
    assert initrun.exit_status(pid) == 1


def test_a_message_without_a_plan_is_the_end() -> None:
    pid, control = initrun.begin()
    control.send(b"p")
    assert initrun.exit_status(pid) == 1
    control.close()


@pytest.mark.root
def test_the_namespaces_are_there_before_the_plan() -> None:
    kinds = {"uts": kernel.CLONE_NEWUTS, "ipc": kernel.CLONE_NEWIPC, "mnt": kernel.CLONE_NEWNS}
    pid, control = initrun.begin(unshare=sum(kinds.values()))

    def new() -> bool:
        return all(os.readlink(f"/proc/{pid}/ns/{k}") != os.readlink(f"/proc/self/ns/{k}") for k in kinds)

    initrun.wait_until(new)
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
    initrun.hand_over(control, plan_of(("umask", 0)).encode(-1))
    assert initrun.exit_status(pid) == 0
    control.close()


@pytest.mark.root
@pytest.mark.parametrize("late", [False, True])
def test_namespaces_that_are_refused_are_told_whether_the_plan_has_come_or_not(late: bool) -> None:
    pid, control = initrun.begin(uid=initrun.ORDINARY_USER, unshare=kernel.CLONE_NEWNET)
    if late:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    initrun.hand_over(control, plan_of(("umask", 0)).encode(-1))
    message = initrun.receive(control)
    assert message is not None
    assert message[:5] == (ERROR, NO_STEP, errno.EPERM, 0, "unshare")
    assert initrun.exit_status(pid) == 1
    control.close()


def test_the_plan_speaks_of_the_fds_that_came_with_it_by_their_order() -> None:
    plan = Plan()
    pipes = [os.pipe() for _ in range(3)]
    handles = [plan.handle(str(i), "test", lambda: -1) for i in range(3)]
    for i, handle in enumerate(handles):
        plan.add("write_fd", "test", handle, b"%d" % i)
    plan.add("close", "test", handles[1])
    plan.add("write_fd", "test", handles[1], b"x")
    assert plan.sent() == handles
    pid, control = initrun.begin()
    initrun.hand_over(control, plan.encode(-1), [write for _, write in pipes])
    message = initrun.receive(control)
    assert message is not None
    assert (message.step, message.error) == (4, errno.EBADF)
    initrun.exit_status(pid)
    control.close()
    for i, (read, write) in enumerate(pipes):
        os.close(write)
        assert os.read(read, 9) == b"%d" % i
        os.close(read)


@pytest.mark.parametrize("number", [-2001, -3024, -1999, -1032])
def test_an_fd_that_did_not_come_is_refused(number: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    pid, control = initrun.begin()
    initrun.hand_over(control, plan_of(("close", number)).encode(-1), [null])
    message = initrun.receive(control)
    assert message is not None
    assert (message.step, message.error, message.text) == (NO_STEP, errno.EINVAL, b"fd")
    initrun.exit_status(pid)
    control.close()
    os.close(null)


def test_more_fds_than_one_datagram_takes_come_in_several() -> None:
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    plan = Plan()
    handles = [plan.handle(str(i), "test", lambda: -1) for i in range(MAX_FDS)]
    plan.add("write_fd", "test", handles[-1], b"last")
    plan.sent()
    pid, control = initrun.begin()
    initrun.hand_over(control, plan.encode(-1), [null] * (MAX_FDS - 1) + [write])
    os.close(write)
    assert initrun.receive(control) is None
    assert initrun.exit_status(pid) == 0
    assert os.read(read, 9) == b"last"
    control.close()
    os.close(null)
    os.close(read)


@pytest.mark.parametrize(("count", "limit"), [(MAX_FDS + 1, 4096), (60, 40)])
def test_more_fds_than_there_is_room_for_are_an_error(count: int, limit: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    pid, control = initrun.begin()
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    initrun.hand_over(control, plan_of(("close", AT_FDCWD)).encode(-1), [null] * count)
    message = initrun.receive(control)
    assert message is not None
    assert (message.step, message.error, message.call) == (NO_STEP, errno.EMFILE, "recvmsg")
    assert initrun.exit_status(pid) == 1
    control.close()
    os.close(null)


@pytest.mark.parametrize("seed", range(8))
def test_corrupted_plans_never_crash_it(seed: int) -> None:
    """Each is refused, or its first op fails as it should; the first op itself is left alone."""
    chance = random.Random(seed)
    start = _HEADER.size + _OP.size

    def corrupt(proc: int) -> bytes:
        raw = bytearray(rich_plan().encode(proc))
        for _ in range(chance.choice((1, 1, 2, 8, 64))):
            where = chance.choice((range(20), range(28, 64), range(start, len(raw))))
            at = chance.choice(where)
            how = chance.randrange(4)
            if how == 0:
                raw[at] ^= 1 << chance.randrange(8)
            elif how == 1:
                raw[at] = chance.randrange(256)
            elif how == 2 and at + 8 <= len(raw) and at >= start:
                value = chance.choice(
                    (0, 1, 2**63, 2**64 - 1, len(raw), len(raw) - 1, chance.randrange(len(raw)))
                )
                struct.pack_into("<Q", raw, at & ~7, value)
            elif at >= start and chance.random() < 0.1:
                del raw[at:]
                struct.pack_into("<I", raw, 8, len(raw))
                break
        return bytes(raw)

    for _ in range(60):
        result = initrun.run_bytes(corrupt)
        assert result.status == 1, result
        (message,) = [m for m in result.messages if m.type != TRACE]
        assert message.type == ERROR, result
        assert (message.step, message.error) in ((NO_STEP, errno.EINVAL), (0, errno.EBADF)), result


def test_an_error_names_the_step() -> None:
    result = initrun.run(plan_of(("umask", 0o22), ("fchdir", 900)))
    assert result.error is not None
    assert (result.error.step, result.error.error, result.status) == (1, errno.EBADF, 1)


def test_a_tolerated_failure_jumps_over_the_ops_that_depend_on_it() -> None:
    plan = Plan()
    plan.add("fchdir", "test", 900, tolerate=errno.EBADF, skip=1)
    plan.add("fchdir", "test", 901)
    initrun.run(plan).expect_success()


def test_another_failure_than_the_tolerated_one_counts() -> None:
    plan = Plan()
    plan.add("fchdir", "test", 900, tolerate=errno.ENOENT, skip=1)
    plan.add("umask", "test", 0)
    initrun.run(plan).expect(errno.EBADF)


def test_success_jumps_over_nothing() -> None:
    plan = Plan()
    plan.add("umask", "test", 0, tolerate=errno.EBADF, skip=1)
    plan.add("fchdir", "test", 900)
    initrun.run(plan).expect(errno.EBADF)


def test_a_register_is_filled_again_and_closed() -> None:
    plan = Plan()
    register = plan.register("dir")
    for path in (b"/", b"/proc", b"/tmp"):
        plan.add("openat", "test", register, AT_FDCWD, path, os.O_PATH)
    plan.add("sync", "test", SYNC_READY)
    plan.add("close", "test", register)
    plan.add("fchdir", "test", register)
    opened = []

    def look(_which: int, pid: int) -> None:
        opened.extend(os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd"))

    initrun.run(plan, on_sync=look).expect(errno.EBADF)
    assert opened.count("/tmp") == 1
    assert "/" not in opened


def test_a_register_that_was_never_filled_is_no_fd() -> None:
    plan = Plan()
    plan.add("fchdir", "test", plan.register("nothing"))
    initrun.run(plan).expect(errno.EBADF)


def test_sync_points_are_told_in_order_and_awaited() -> None:
    seen: list[int] = []
    plan = plan_of(("sync", SYNC_SCOPE), ("sync", SYNC_HOOKS), ("sync", SYNC_READY))
    initrun.run(plan, on_sync=lambda which, _pid: seen.append(which)).expect_success()
    assert seen == [SYNC_SCOPE, SYNC_HOOKS, SYNC_READY]


@pytest.mark.parametrize("answer", [None, struct.pack("<II", 0, 0), b"", b"go"])
def test_without_leave_to_go_on_it_ends(answer: bytes | None) -> None:
    pid, control = initrun.start(plan_of(("sync", 1), ("sync", 2)).encode)
    assert initrun.receive(control) is not None
    if answer is None:
        control.close()
    else:
        control.send(answer)
    assert initrun.exit_status(pid) == 1
    control.close()


def test_a_parent_that_died_does_not_kill_by_sigpipe() -> None:
    def data(proc: int) -> bytes:
        return plan_of(("wait_start", listener.fileno()), ("sync", 1)).encode(proc)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(b"\0ocirt-test-%d" % os.getpid())
        listener.listen()
        pid, control = initrun.start(data, [listener.fileno()])
        control.close()
        with socket.socket(socket.AF_UNIX) as starter:
            starter.connect(listener.getsockname())
        assert initrun.exit_status(pid) == 1


def test_the_second_stage_is_the_parents_child_and_comes_after_its_pid() -> None:
    parents: list[int] = []

    def look(_which: int, pid: int) -> None:
        status = Path(f"/proc/{pid}/status").read_text()
        parents.append(int(status.split("PPid:")[1].split()[0]))

    result = initrun.run(plan_of(("fork",), ("sync", 1)), on_sync=look)
    result.expect_success()
    assert [message.type for message in result.messages] == [initrun.PID, SYNC]
    assert parents == [os.getpid()]


def test_start_is_a_connection_and_later_errors_go_there(tmp_path: Path) -> None:
    address = str(tmp_path / "start")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        plan = plan_of(
            ("sync", SYNC_READY),
            ("wait_start", listener.fileno()),
            ("find_executable", [b"/etc/passwd"], None),
        )
        pid, control = initrun.start(plan.encode, [listener.fileno()])
    with control, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as starter:
        initrun.receive(control)
        initrun.go_on(control)
        time.sleep(0.05)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        starter.connect(address)
        message = initrun.receive(starter)
        assert message is not None
        assert (message.type, message.step, message.error) == (ERROR, 2, errno.EACCES)
        assert initrun.receive(control) is None
    assert initrun.exit_status(pid) == 1


def test_exec_is_announced_and_then_the_socket_ends() -> None:
    result = initrun.run(
        plan_of(
            ("find_executable", [b"true"], [b"PATH=/nowhere::/bin"]),
            ("exec_follows",),
            ("execve", [b"true"], None),
        )
    )
    result.expect_success()
    assert [message.type for message in result.messages] == [EXEC]


def test_a_trace_has_a_time_for_each_step_in_order() -> None:
    plan = Plan()
    for _ in range(300):
        plan.add("umask", "test", 0o22)
    plan.add("fchdir", "test", 900, tolerate=errno.EBADF, skip=1)
    plan.add("fchdir", "test", 900)
    plan.add("sync", "test", SYNC_READY)
    plan.add("find_executable", "test", [b"/bin/true"], None)
    plan.add("exec_follows", "test")
    plan.add("execve", "test", [b"true"], None)
    before = time.monotonic_ns()
    result = initrun.run(plan, trace=True)
    result.expect_success()
    first = result.messages[0]
    assert (first.type, first.step) == (TRACE, NO_STEP)
    # of the exec, the unshare, the wait for the plan
    times = list(struct.unpack("<3Q", first.text))
    assert times == sorted(times)
    assert before < times[0]
    before, times = times[-1], []
    for message in result.messages[1:]:
        if message.type == TRACE:
            assert message.step == len(times)
            times += struct.unpack(f"<{len(message.text) // 8}Q", message.text)
    assert len(times) == 304  # up to the step before exec_follows
    assert times == sorted(times)
    assert before < times[0]
    assert times[-1] < time.monotonic_ns()


def test_without_a_trace_nothing_is_timed() -> None:
    result = initrun.run(plan_of(("umask", 0)))
    assert result.messages == []


def waiting(sandbox: Sandbox) -> tuple[int, socket.socket]:
    pid, control = initrun.start(sandbox.plan.encode, sandbox.keep)
    while (message := initrun.receive(control)) is not None and message.value != SYNC_READY:
        initrun.go_on(control)
    return pid, control


def test_a_waiting_init_is_small_and_is_called_by_its_name(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    for i in range(60):
        sandbox.add("open_in_root", sandbox.root, AT_FDCWD, b"missing/%d" % i, 0, tolerate=errno.ENOENT)
    sandbox.add("find_executable", [b"true"], [b"PATH=/bin"])
    sandbox.add("sync", SYNC_READY)
    sandbox.add("seccomp", bytes(4000), 0)
    pid, control = waiting(sandbox)
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        resident = int(rollup.split("Rss:")[1].split()[0])
        print(f"resident: {resident} KiB")
        assert resident <= 100
        assert Path(f"/proc/{pid}/comm").read_text() == "ocirt-init\n"
    finally:
        control.close()
        initrun.kill(pid)


def test_it_keeps_no_fd_of_the_plan() -> None:
    pid, control = initrun.start(plan_of(("sync", 1)).encode)
    with control:
        initrun.receive(control)
        names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert initrun.exit_status(pid) == 1
    assert not [name for name in names if "memfd:plan" in name]


def test_the_program_needs_no_relocation_and_has_no_writable_code() -> None:
    run = {"check": True, "capture_output": True, "text": True}
    relocations = subprocess.run(["readelf", "-rW", initrun.INIT], **run).stdout  # type: ignore[call-overload]
    assert "There are no relocations in this file." in relocations
    segments = subprocess.run(["readelf", "-lW", initrun.INIT], **run).stdout  # type: ignore[call-overload]
    assert "INTERP" not in segments
    assert "RWE" not in segments
    stack = next(line for line in segments.splitlines() if "GNU_STACK" in line)
    assert " RW " in stack


def test_signals_arrive_while_it_waits() -> None:
    pid, control = initrun.start(plan_of(("sync", 1)).encode)
    with control:
        initrun.receive(control)
        os.kill(pid, signal.SIGTERM)
        assert initrun.exit_status(pid) == -signal.SIGTERM
        assert select.select([control], [], [], 1)[0]

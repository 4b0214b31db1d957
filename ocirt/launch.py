"""Carry out a plan: start ocirt-init, open, hand over, serve sync points, collect a failure report.

    parent                                  ocirt-init
      | clone3 ------------------------------> makes the namespaces, waits
      | the plan is compiled
      | OPEN handles, CGROUP actions
      | -------- plan and fds --------------> checks the plan
      |  <------------------- PID ----------- (only when it forked a second stage)
      |  <------------------- SYNC x -------- waits
      | actions of x
      |  -------------------- go ------------>
      |  ...
      |  <------------------- SYNC READY ---- everything is in place
      | state saved, pid file written
      |  -------------------- go ------------> waits for start, or goes on
      |  <------------------- EXEC ---------- then end-of-file: the program runs

Where the clone joins a group of cgroup v2, the init is started when that is there, just before the
plan is sent.

End-of-file without EXEC means the init died; an ERROR record says which step failed and why.
Whatever fails, undo() runs in reverse order and the processes are killed and reaped.
"""

from __future__ import annotations

import _socket
import posix
import select
import time
from _struct import Struct
from errno import EACCES, ECHILD, ENOENT, ENOEXEC, ESRCH

from ocirt import interrupt, kernel
from ocirt.errors import ExecutableError, HookFailed, InitDied, OcirtError, StepError
from ocirt.initbin import open_init, plan_memfd
from ocirt.plan import SYNC_HOOKS, SYNC_NAMES, SYNC_READY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.context import Context
    from ocirt.plan import Handle, Op, Plan

REPORT = Struct("<IIii24s")
ANSWER = Struct("<II")
PID, SYNC, ERROR, EXEC, TRACE = 1, 2, 3, 4, 5
NO_STEP = 0xFFFFFFFF
SCM_RIGHTS = 1
FDS_AT_ONCE = 250
DYING = 1  # seconds that an init may take to be dead after its last word


class Launch:
    """One run of ocirt-init. pid and pidfd are those of the process that will be the container's."""

    def __init__(
        self, plan: Plan, context: Context | Callable[[], Context], *, trace: Any = None, exit_signal: int = 0
    ) -> None:
        self.plan = plan
        self._context = context  # or what makes it: start needs one only to word a failure
        self.trace = trace
        self.exit_signal = exit_signal
        self.pid = -1
        self.pidfd = -1
        self.control: _socket.socket | None = None
        self.warnings: list[str] = []
        self.hooks_begun = False  # from here on a failure is followed by the poststop hooks
        self.to_send: list[int] = []  # fds that follow the next answer; ours to close
        self._stage_one = -1  # pidfd of the first stage, to be reaped
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """What could not be undone goes along with the error, as its notes."""
        if error is not None:
            for warning in self.warnings:
                error.add_note(warning)

    @property
    def ctx(self) -> Context:
        if callable(self._context):
            self._context = self._context()
        return self._context

    def undo(self, call: Callable[[], None]) -> None:
        """Do call if the container cannot be made after all."""
        self._undo.append(call)

    def state_for_hooks(self, status: str) -> dict[str, Any]:
        from ocirt.hooks import hook_state

        return hook_state(self.ctx.spec, self.ctx.id, self.ctx.bundle, status, self.pid)

    def start_init(self) -> None:
        """Start ocirt-init, which makes its namespaces and waits for the plan; we go on meanwhile.

        The plan need not be compiled for that. Whoever does not come to spawn() calls abort().
        """
        plan = self.plan
        into = plan.into_cgroup
        started = time.monotonic_ns()
        try:
            self.control, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        except OSError as error:
            raise StepError(error.errno or 0, "socketpair", "linux.namespaces") from None
        exe_fd = -1
        try:
            exe_fd = open_init()
            argv = [b"ocirt-init", str(theirs.fileno()).encode(), str(plan.unshare_flags).encode()]
            keep = [theirs.fileno(), *plan.keep_fds]
            into_fd = -1 if into is None else into.fd
            self.pid, self.pidfd = kernel.spawn(
                exe_fd, argv, [], keep, plan.clone_flags, into_fd, self.exit_signal
            )
        except OcirtError:
            raise
        except OSError as error:
            raise StepError(error.errno or 0, "clone3", "linux.namespaces") from None
        finally:
            theirs.close()
            if exe_fd >= 0:
                posix.close(exe_fd)
        if self.trace:
            self.trace.span("parent", "SPAWN clone3", "linux.namespaces", started)
            self.trace.init_started(self.pid, started)

    def prepare(self) -> None:
        """OPEN and CGROUP: nothing of the container exists before the first and after an error."""
        opened: list[Handle] = []

        def close_all() -> None:
            for handle in opened:
                if handle.fd >= 0:
                    posix.close(handle.fd)
                    handle.fd = -1

        self._close_handles = close_all
        try:
            for action in self.plan.actions_at("OPEN"):
                self._do(action)
            for late in (False, True):
                for handle in self.plan.handles:
                    if handle.late is late:
                        self._open(handle)
                        opened.append(handle)
                if not late:
                    for action in self.plan.actions_at("CGROUP"):
                        self._do(action)
        except BaseException:
            close_all()
            self.abort()
            raise

    def _open(self, handle: Handle) -> None:
        try:
            handle.fd = handle.opener()
        except OcirtError:
            raise
        except OSError as error:
            raise StepError(error.errno or 0, "open", handle.field, handle.name) from None

    def _do(self, action: Any) -> None:
        interrupt.check()
        started = time.monotonic_ns() if self.trace else 0
        try:
            action.call(self)
        except OcirtError:
            raise
        except OSError as error:
            raise StepError(error.errno or 0, action.text, action.field) from None
        finally:
            if self.trace:
                self.trace.span("parent", f"{action.when} {action.text}", action.field, started)

    def spawn(self) -> None:
        """Start ocirt-init, if that has not been done, and give it the plan.

        On failure everything is undone.
        """
        try:
            if self.pidfd < 0:
                self.start_init()
            self._hand_over()
        except BaseException:
            self._close_handles()  # first: what undoes opens files too
            self.abort()
            raise
        self._close_handles()

    def _hand_over(self) -> None:
        plan = self.plan
        started = time.monotonic_ns()
        fds = [handle.fd for handle in plan.sent()]
        data = plan.encode(self.ctx.proc.number, bool(self.trace))
        plan_fd = -1
        try:
            plan_fd = plan_memfd(data)
            self._send_fds([plan_fd, *fds])
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has given up; its last word, read next, says why
        except OSError as error:
            raise StepError(error.errno or 0, "sendmsg", "plan") from None
        finally:
            if plan_fd >= 0:
                posix.close(plan_fd)
        if self.trace:
            self.trace.span("parent", "SPAWN hand over the plan", "", started)

    def _send_fds(self, fds: list[int]) -> None:
        assert self.control is not None
        for start in range(0, len(fds), FDS_AT_ONCE):
            some = fds[start : start + FDS_AT_ONCE]
            rights = (_socket.SOL_SOCKET, SCM_RIGHTS, Struct(f"{len(some)}i").pack(*some))
            self.control.sendmsg([b"p" if start + FDS_AT_ONCE >= len(fds) else b"m"], [rights])

    def run_to_ready(self, on_ready: Callable[[], None]) -> None:
        """Serve the init until it is READY; then on_ready(), and it may go on.

        Raises what failed, as a typed error, with everything undone.
        """
        try:
            while True:
                kind, step, error, value, call, text = self._receive()
                if kind == SYNC:
                    if value in (SYNC_HOOKS, SYNC_READY):
                        self.hooks_begun = True
                    for action in self.plan.actions_at(SYNC_NAMES[value]):
                        self._do(action)
                    if value == SYNC_READY:
                        on_ready()
                        self._reap_stage_one()
                        self._go_on()
                        return
                    self._go_on()
                elif kind == EXEC:
                    raise InitDied("the container's program was started too early")
                else:
                    self._take(kind, step, error, value, call, text)
        except BaseException:
            self.abort()
            raise

    def run_to_exec(self) -> None:
        """Wait until the program runs. Raises what failed, with everything undone."""
        try:
            self.await_exec()
        except BaseException:
            self.abort()
            raise

    def await_exec(self) -> None:
        """Read the records that follow READY (or start): EXEC and end-of-file mean success."""
        executed = False
        while True:
            # The init's word first: a program that runs gets its signals itself.
            data = _receive_from(self.control, first=True)
            if not data:
                if executed:
                    return
                raise self._died()
            kind, step, error, value, call, text = _split(data)
            if kind == EXEC:
                executed = True
                interrupt.disarm()
            else:
                self._take(kind, step, error, value, call, text)

    def _take(self, kind: int, step: int, error: int, value: int, call: str, text: bytes) -> None:
        if kind == PID:
            self._stage_one, self.pid = self.pidfd, value
            self.pidfd = kernel.pidfd_open(value)
        elif kind == ERROR:
            if any(op.kind == "hook" for op in self.plan.ops[: step + 1]):
                self.hooks_begun = True
            raise failure(self.plan.ops, step, error, call, text.decode("utf-8", "replace"), self.ctx)
        elif kind == TRACE:
            if self.trace:
                self.trace.init_times(self.plan.ops, step, text)
        else:
            raise InitDied(f"ocirt-init sent an unknown record {kind}")

    def _receive(self) -> tuple[int, int, int, int, str, bytes]:
        data = _receive_from(self.control)
        if not data:
            raise self._died()
        return _split(data)

    def _close_sent(self) -> None:
        while self.to_send:
            posix.close(self.to_send.pop())

    def _go_on(self) -> None:
        assert self.control is not None
        try:
            self.control.send(ANSWER.pack(1, 0))
            for fd in self.to_send:
                kernel.send_fd(self.control.fileno(), fd)
            self._close_sent()
        except OSError:
            raise self._died() from None

    def _died(self) -> OcirtError:
        """The init ended without a word: say how. Its socket is closed a little before it is dead."""
        status = None
        if self.pidfd >= 0:
            poll = select.poll()
            poll.register(self.pidfd, select.POLLIN)
            poll.poll(DYING * 1000)
            status = kernel.waitid_pidfd(self.pidfd, nohang=True)
        return InitDied(died_reason(status, self.ctx))

    def _reap_stage_one(self) -> None:
        if self._stage_one >= 0:
            kernel.waitid_pidfd(self._stage_one)
            posix.close(self._stage_one)
            self._stage_one = -1

    def abort(self) -> None:
        """Kill and reap the init, then undo. No signal interrupts that."""
        interrupt.disarm()
        if self.pidfd >= 0:
            self._kill()
            if self._stage_one < 0:
                self._find_stage_two()
        if self.control is not None:
            self.control.close()
            self.control = None
        self._reap_stage_one()
        if self.pidfd >= 0:
            posix.close(self.pidfd)
            self.pidfd = -1
        self.roll_back()

    def _kill(self) -> None:
        """The process of pidfd, and reap it."""
        try:
            kernel.pidfd_send_signal(self.pidfd, kernel.SIGKILL)
        except OSError as error:
            if error.errno != ESRCH:  # it has ended already
                raise
        try:
            kernel.waitid_pidfd(self.pidfd)
        except OSError as error:
            if error.errno != ECHILD:
                raise

    def _find_stage_two(self) -> None:
        """Stage 1 is dead: had it forked, its word of that may still be unread."""
        while self.control is not None:
            try:
                data = self.control.recv(4096, _socket.MSG_DONTWAIT)
            except ConnectionResetError:
                continue  # told once, for what it left unread
            except OSError:
                return
            if not data:
                return
            kind, _step, _error, value, _call, _text = _split(data)
            if kind == PID:
                posix.close(self.pidfd)
                self.pidfd = kernel.pidfd_open(value)  # our child too, and not reaped
                self._kill()
                return

    def roll_back(self) -> None:
        """Undo in reverse; an undo that fails must not hide why it was needed."""
        interrupt.disarm()
        self._close_sent()
        if self.control is not None:
            self.control.close()
            self.control = None
        while self._undo:
            try:
                self._undo.pop()()
            except OcirtError as error:
                self.warnings.append(f"undo: {error}")
            except Exception as error:
                self.warnings.append(f"undo: {getattr(error, 'strerror', '') or error}")

    def close(self) -> None:
        """Leave the container alone; the pidfd stays with the caller."""
        if self.control is not None:
            self.control.close()
            self.control = None


def _receive_from(control: _socket.socket | None, *, first: bool = False) -> bytes:
    assert control is not None
    interrupt.wait(control.fileno(), first=first)
    try:
        return control.recv(4096)
    except ConnectionResetError:  # it ended with something of ours unread; its own words come next
        return control.recv(4096)


def _split(data: bytes) -> tuple[int, int, int, int, str, bytes]:
    kind, step, error, value, call = REPORT.unpack_from(data)
    return kind, step, error, value, call.rstrip(b"\0").decode(), data[REPORT.size :]


def failure(ops: list[Op], step: int, error: int, call: str, text: str, ctx: Context) -> OcirtError:
    """The typed error for an ERROR record of the init."""
    if step == NO_STEP or step >= len(ops):
        field = "linux.namespaces" if call == "unshare" else "plan"
        return StepError(error, call or "read", field, text)
    op = ops[step]
    if op.kind == "hook":
        reason, _, rest = text.partition("\n")
        spent, _, stderr = rest.partition("\n")
        seconds = int(spent or 0) / 1000
        if reason == "killed by signal 9" and ctx.cgroup is not None and ctx.cgroup.oom_kills():
            reason += " for want of memory (linux.resources.memory.limit)"
        return HookFailed(op.field, op.detail, reason or posix.strerror(error).lower(), stderr, seconds)
    if op.kind in ("find_executable", "execve"):
        command = kernel.fsdecode(ctx.argv[0])
        found = ExecutableError(error, call or op.kind, op.field, command)
        if error in (ENOENT, ENOEXEC, EACCES):
            from ocirt.explain import executable_hint

            found.hint = executable_hint(ctx, command, error, op.kind)
        return found
    detail = f"{op.detail}: {text}" if op.detail and text else op.detail or text
    return StepError(error, call or op.kind, op.field, detail)


def died_reason(status: tuple[int, int, int] | None, ctx: Context) -> str:
    """How ocirt-init ended; (pid, CLD_ code, status) of waitid."""
    from ocirt.explain import init_died

    return init_died(status, ctx)

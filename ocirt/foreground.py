"""run and exec in the foreground: pass signals on, wait, tell how it ended.

From the start until the end, signals are blocked and read from a signalfd. Before the program
runs, the ending ones undo everything (interrupt.py); then one epoll waits for them, the process and
the terminal. Nothing polls.
"""

from __future__ import annotations

import posix
import select

from ocirt import interrupt, kernel
from ocirt.container import Container
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.cgroups.oom import Watch
    from ocirt.console import Console
    from ocirt.container import Exec
    from ocirt.notify import Relay
    from ocirt.options import CreateOptions, ExecOptions

# Raised by the process itself, or its own affair: job control of a background runtime.
KEPT = "KILL STOP SEGV BUS FPE ILL TRAP ABRT SYS PIPE TTIN TTOU URG"
ENDING = "INT TERM HUP QUIT"
LIBC = (1 << 31) | (1 << 32)  # signals 32 and 33 are the C library's own


def _mask(names: str) -> int:
    return kernel.signal_mask(getattr(kernel, f"SIG{name}") for name in names.split())


def run_bundle(
    bundle: str,
    container_id: str,
    root: str,
    options: CreateOptions,
    *,
    keep: bool = False,
    subreaper: bool = True,
    on_created: Callable[[Any], None] | None = None,
    leaving: bool = False,
) -> tuple[int, list[str]]:
    """Create, start, wait and, unless keep, delete: (exit status, warnings).

    leaving: the caller exits then, so the signals stay blocked: none may end it before its last word.
    subreaper: orphans of a container that shares our pid namespace become ours to reap. Raises
    Interrupted when a signal ends the making of the container; then nothing is left behind.
    """
    if options.console_socket:
        raise OcirtError("cannot use --console-socket without --detach: the terminal is ours")
    if subreaper:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    foreground = Foreground()
    try:

        def created(container: Container) -> None:
            if on_created is not None:
                on_created(container)
            terminal = (container.spec.get("process") or {}).get("terminal")
            foreground.take(container, bool(terminal), options.notify_directory)

        container = Container.create(
            bundle,
            container_id,
            root=root,
            options=options,
            console_fd=foreground.console_fd,
            start=True,
            on_created=created,
        )
        try:
            status = foreground.wait(container)
        except BaseException:
            if not keep:  # nobody is there any more to wait for it
                container.delete(force=True)
            raise
        warnings = container.warnings
        if not keep:
            try:
                container.delete(force=True)
            except OcirtError as error:
                # The process has run: its status is what the caller waits for.
                warnings = [*warnings, f"delete: {error}"]
    finally:
        foreground.end(leaving)
    return status, warnings


def exec_in(
    container: Container,
    process: dict[str, Any],
    options: ExecOptions,
    *,
    on_ready: Callable[[Any], None] | None = None,
    leaving: bool = False,
) -> tuple[int, list[str]]:
    """Run another process in a container and wait for it: (exit status, warnings). See run_bundle."""
    if options.console_socket:
        raise OcirtError("cannot use --console-socket without --detach: the terminal is ours")
    foreground = Foreground()
    try:

        def ready(started: Exec) -> None:
            if on_ready is not None:
                on_ready(started)
            foreground.take(started, bool(process.get("terminal")))

        started = container.exec(process, options, console_fd=foreground.console_fd, on_ready=ready)
        status = foreground.wait(started)
    finally:
        foreground.end(leaving)
    return status, started.warnings


class Foreground:
    """Signals, terminal and end of one process. Call end() in any case."""

    def __init__(self) -> None:
        # Our end is the console socket's peer; without a terminal nothing comes.
        self._receiver, self.console_fd = kernel.socketpair()
        self._console: Console | None = None
        self._relay: Relay | None = None
        self._memory: Watch | None = None
        # What is ignored stays so: nohup.
        taken = kernel.INFINITY & ~(_mask(KEPT) | LIBC | kernel.ignored_signals())
        self._signals = kernel.signalfd(taken)
        self._ending = kernel.signalfd(_mask(ENDING) & taken)
        self._old_mask: int | None = kernel.sigprocmask(kernel.SIG_BLOCK, taken)
        interrupt.arm(self._ending)

    def take(self, process: Container | Exec, terminal: bool, notify_directory: str | None = None) -> None:
        """The process is there and about to run: from here on it gets our signals."""
        self._pid = process.pid  # asked while it lives: a container that has ended has none
        if terminal:
            from ocirt.console import Console

            master, _ = kernel.recv_fd(self._receiver)
            if master < 0:
                raise OcirtError("the init sent no terminal")
            self._console = Console(master)
            self._console.begin()
        self._memory = _memory_watch(process)
        if notify_directory:
            from ocirt.notify import Relay

            self._relay = Relay(notify_directory, process.pid)

    def wait(self, process: Container | Exec) -> int:
        """Serve until the process has ended; 128 + N when signal N ended it."""
        events = select.epoll(flags=select.EPOLL_CLOEXEC)
        events.register(process.pidfd, select.EPOLLIN)
        events.register(self._signals, select.EPOLLIN)
        console, relay = self._console, self._relay
        if console is not None:
            console.register(events)
        if relay is not None:
            events.register(relay.fd, select.EPOLLIN)
        memory, kills = self._memory, 0
        if memory is not None:
            events.register(memory.fd, memory.event)
        ended = False
        while not ended:
            wait = 0 if console is not None and console.move() else -1
            for fd, what in events.poll(wait):
                if fd == process.pidfd:
                    ended = True
                elif fd == self._signals:
                    self._pass_on(process)
                elif relay is not None and fd == relay.fd:
                    relay.receive()
                elif memory is not None and fd == memory.fd:
                    kills += memory.happened()
                elif console is not None:
                    console.ready(fd, what)
        if memory is not None and memory.fd >= 0:
            told = any(fd == memory.fd for fd, _ in events.poll(0))
            kills += memory.happened(told)
        if isinstance(process, Container):
            process.oom_seen = kills
        status = process.wait()
        if memory is not None and memory.unread and not kills and status == 128 + kernel.SIGKILL:
            text = "out of memory, as it seems: the limit was reached, and systemd has removed the group"
            process.warnings.append(f"linux.resources.memory.limit: {text}")
        events.close()
        if console is not None:
            console.drain(self._signals)
            console.end()
        return status

    def _pass_on(self, process: Container | Exec) -> None:
        number = interrupt.read_signal(self._signals)
        if number == kernel.SIGCHLD:
            _reap_others(self._pid)
            return
        if number == kernel.SIGWINCH:
            if self._console is not None:
                self._console.resize()
            return
        if number == kernel.SIGCONT and self._console is not None:
            self._console.make_raw()  # the shell has reset the terminal meanwhile
        try:
            kernel.pidfd_send_signal(process.pidfd, number)
        except ProcessLookupError:
            pass  # it has just ended

    def end(self, leaving: bool = False) -> None:
        """Give back the terminal and, unless we are leaving, the signals, whatever happened."""
        if self._console is not None:
            self._console.end()
            self._console = None
        if self._relay is not None:
            self._relay.close()
            self._relay = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
        interrupt.disarm()
        if self._old_mask is not None:
            # What is still pending was meant for the process, which is gone: not for our caller.
            while interrupt.is_readable(self._signals):
                interrupt.read_signal(self._signals)
            if not leaving:
                kernel.sigprocmask(kernel.SIG_SETMASK, self._old_mask)
            self._old_mask = None
        for fd in (self._receiver, self.console_fd, self._signals, self._ending):
            if fd >= 0:
                posix.close(fd)
        self._receiver = self.console_fd = self._signals = self._ending = -1


def _memory_watch(process: Container | Exec) -> Watch | None:
    """A container's in the scope of systemd, which removes the group with its count of kills as soon
    as nobody is inside: they have to be seen when they happen.
    """
    saved = getattr(process, "saved", {}).get("cgroup") or {}
    if saved.get("driver") != "systemd":
        return None
    from ocirt.cgroups.oom import Watch

    watch = Watch(saved["paths"], saved["version"])
    return watch if watch.fd >= 0 else None


def _reap_others(own: int) -> None:
    """Orphans that came to us as their subreaper; the process itself is waited for by its pidfd."""
    while True:
        try:
            found = posix.waitid(posix.P_ALL, 0, posix.WEXITED | posix.WNOHANG | posix.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid == own:
            return
        posix.waitpid(found.si_pid, 0)

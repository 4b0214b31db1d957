"""Container: the lifecycle of runtime.md as a class; the command line is a thin layer over it."""

from __future__ import annotations

import posix
import select
import time
from errno import ECONNREFUSED, ENOENT, ENOTDIR, ESRCH

from ocirt import kernel, state
from ocirt.errors import (
    CgroupError,
    ExecutableError,
    InitDied,
    NotFound,
    OcirtError,
    SpecError,
    StepError,
    WrongState,
)
from ocirt.running import Running
from ocirt.state import StateDir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.context import Context
    from ocirt.launch import Launch
    from ocirt.options import CreateOptions, ExecOptions

S_IFMT, S_IFDIR, S_IFREG = 0o170000, 0o040000, 0o100000
SIGILL = 4
KILL_WAIT = 10.0  # seconds for a killed container to be gone


class Container(Running):
    """One container, known by its id below a state root.

    create() and load() make them; state is the document of state.json. The one that create() made
    is our child: wait() for it, and delete() or close() it. pidfd becomes readable at its end.
    """

    def __init__(self, root: str, container_id: str, saved: dict[str, Any], pidfd: int = -1) -> None:
        self.root = root
        self.id = container_id
        self.saved = saved
        self.pidfd = pidfd
        self.warnings: list[str] = []
        self.exit_status: int | None = None  # once we have waited for it
        self._spec: dict[str, Any] | None = None

    # Making one

    @classmethod
    def create(
        cls,
        bundle: str,
        container_id: str,
        *,
        root: str,
        options: CreateOptions,
        console_fd: int = -1,
        start: bool = False,
        on_created: Callable[[Container], None] | None = None,
    ) -> Container:
        """Make the container of a bundle; its init waits for start() (runtime.md, Create).

        console_fd: a connected socket that gets the terminal's master, when options names none.
        start: go on to the user's program at once (run). on_created is called when everything is
        in place and before the program may run. Raises OcirtError; then nothing is left behind.
        """
        state.check_id(container_id)
        trace = _open_trace(options)
        try:
            return cls._create(bundle, container_id, root, options, console_fd, start, on_created, trace)
        finally:
            if trace:
                trace.write()

    @classmethod
    def _create(
        cls,
        bundle: str,
        container_id: str,
        root: str,
        options: CreateOptions,
        console_fd: int,
        start: bool,
        on_created: Callable[[Container], None] | None,
        trace: Any,
    ) -> Container:
        from ocirt.build import begin_create
        from ocirt.fields import compile_fields
        from ocirt.launch import Launch  # here: state, kill and list do without it

        ctx, text = begin_create(bundle, container_id, options, start=start)
        launch = Launch(ctx.plan, ctx, trace=trace)
        try:
            if ctx.plan.early:
                launch.start_init()
            compile_fields(ctx, "create")
            _check_rootfs(ctx)
            container = cls(root, container_id, _first_state(ctx))
            directory = state.reserve(root, container_id)
        except BaseException:
            launch.abort()
            raise
        with launch, directory:
            launch.undo(lambda: container._poststop_of_failed(launch))
            launch.undo(directory.remove)
            container._spec = ctx.spec
            try:
                if ctx.terminal:
                    _connect_console(ctx, options, console_fd)
                if ctx.start_socket is not None:
                    ctx.start_socket.opener = lambda: _listen(directory.fd)
                directory.write("config.json", text)
                # Before anything else exists: what a killed runtime leaves must be found again.
                directory.save(container.saved)
                ctx.plan.at("CGROUP", "linux.cgroupsPath", "claim the groups", lambda _: directory.claim())
            except BaseException:
                launch.abort()
                raise
            launch.prepare()
            launch.spawn()

            def ready() -> None:
                container.pidfd = launch.pidfd
                container._became_created(launch)
                directory.save(container.saved)
                _leave_pid_file(options.pid_file, launch)
                if on_created is not None:
                    on_created(container)

            launch.run_to_ready(ready)
            if start:
                launch.run_to_exec()
                try:
                    container.check_started(launch.pidfd)
                except BaseException:
                    launch.abort()
                    raise
            launch.close()
            container.warnings = ctx.warnings + launch.warnings
        if start:
            container._poststart()
        return container

    def _became_created(self, launch: Launch) -> None:
        from ocirt.procfs import start_time

        self.saved["pid"] = launch.pid
        self.saved["startTime"] = start_time(launch.pid)
        if launch.ctx.cgroup is not None:
            self.saved["cgroup"] = launch.ctx.cgroup.save()
        if launch.ctx.intel_rdt is not None:
            self.saved["intelRdt"] = launch.ctx.intel_rdt.save()
        base = next((i for i, op in enumerate(launch.plan.ops) if op.kind == "wait_start"), None)
        if base is not None:
            steps = [[op.kind, op.field, op.detail] for op in launch.plan.ops[base:]]
            self.saved["steps"] = {"base": base, "ops": steps}

    # Finding them

    @classmethod
    def load(cls, container_id: str, root: str) -> Container:
        """The container with this id. Raises NotFound."""
        with state.open_state(root, container_id, lock=False) as directory:
            try:
                return cls(root, container_id, directory.load())
            except FileNotFoundError:
                raise NotFound(container_id) from None

    @classmethod
    def list(
        cls, root: str, *, on_error: Callable[[str, Exception], None] | None = None
    ) -> list[dict[str, Any]]:
        """State documents of all containers below root, by id; a missing root holds none.

        on_error gets the ids whose state cannot be read, and why; without it that is raised.
        """
        found = []
        for container_id in state.ids(root):
            try:
                found.append(cls.load(container_id, root).state())
            except (NotFound, NotADirectoryError):
                continue  # deleted while we looked
            except (OcirtError, OSError) as error:
                if on_error is None:
                    raise
                on_error(container_id, error)
        return found

    # Looking

    @property
    def pid(self) -> int:
        """Process id of the init process; 0 when it has ended."""
        return self.saved["pid"] if self._alive() else 0

    @property
    def bundle(self) -> str:
        return str(self.saved["bundle"])

    @property
    def spec(self) -> dict[str, Any]:
        """config.json as it was at create."""
        if self._spec is None:
            from ocirt.spec.jsontext import loads

            with state.open_state(self.root, self.id, lock=False) as directory:
                self._spec = loads(directory.read("config.json"), "config.json")
        return self._spec

    @property
    def status(self) -> str:
        """creating, created, running, paused or stopped: read off the process, not remembered."""
        if not self.saved["pid"]:
            return self._status_without_pid()
        if not self._alive():
            return "stopped"
        if self.is_paused():
            return "paused"
        try:
            posix.stat(f"{self.root}/{self.id}/start")
        except FileNotFoundError:
            return "running"
        return "created" if self._is_our_init() else "running"

    def _is_our_init(self) -> bool:
        """Is the process still ocirt-init? A start that was killed leaves its socket behind."""
        try:
            program = str(posix.readlink(f"/proc/{self.saved['pid']}/exe"))
        except FileNotFoundError:
            return False  # it has ended
        except PermissionError:
            return True  # somebody who may only look: the socket has to do
        return "ocirt-init" in program.rpartition("/")[2]

    def _status_without_pid(self) -> str:
        """Being created, unless the runtime that did it has died.

        Its lock is not asked: to ask is to hold it for a moment, and others would find it taken.
        """
        from ocirt.procfs import process_is

        creator = self.saved.get("creator")
        return "creating" if creator and process_is(*creator) else "stopped"

    def _alive(self) -> bool:
        from ocirt.procfs import process_is

        return bool(self.saved["pid"]) and process_is(self.saved["pid"], self.saved["startTime"])

    def state(self) -> dict[str, Any]:
        """The state document (runtime.md, State) with runc's rootfs, created and owner."""
        status = self.status
        return {
            "ociVersion": self.saved["ociVersion"],
            "id": self.id,
            "pid": 0 if status == "stopped" else self.saved["pid"],
            "status": status,
            "bundle": self.saved["bundle"],
            "rootfs": self.saved["rootfs"],
            "created": self.saved["created"],
            "annotations": self.saved["annotations"],
            "owner": self.saved["owner"],
        }

    def manager(self) -> Any:
        """The cgroup manager of this container; None when it has no cgroup."""
        saved = self.saved.get("cgroup")
        if not saved:
            return None
        from ocirt import cgroups

        return cgroups.load(saved)

    # Changing

    def start(self) -> None:
        """Let the user's program run (runtime.md, Start). Raises WrongState, or what failed."""
        with state.open_state(self.root, self.id) as directory:
            self.saved = directory.load()
            # The lock is ours: without a pid, the runtime that was creating it has died.
            status = self.status if self.saved["pid"] else "stopped"
            if status == "running":
                raise WrongState(status, "created", "cannot start an already running container")
            if status == "paused":
                raise WrongState(status, "created", "cannot start a container in the paused state")
            if status != "created":
                raise WrongState(status, "created", f"cannot start a container that has {status}")
            pidfd = kernel.pidfd_open(self.saved["pid"])
            try:
                launch = self._connect(directory)
                try:
                    launch.await_exec()
                except InitDied:
                    raise InitDied("; ".join([_how_it_ended(pidfd), *self.oom_report()])) from None
                finally:
                    directory.unlink("start")
                    launch.close()
                self.check_started(pidfd)
            finally:
                posix.close(pidfd)
        self._poststart()

    def _connect(self, directory: StateDir) -> Launch:
        """The start socket, by an fd: a path may be longer than sun_path's 108 bytes."""
        import _socket

        from ocirt.launch import Launch
        from ocirt.plan import Op, Plan

        plan = Plan()
        steps = self.saved["steps"]
        plan.ops = [Op("LAST", "wait_start", "", (), "", 0, 0)] * steps["base"]
        plan.ops += [Op("LAST", kind, field, (), detail, 0, 0) for kind, field, detail in steps["ops"]]
        launch = Launch(plan, self._context)
        control = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        try:
            control.connect(f"/proc/self/fd/{directory.fd}/start")
        except OSError as error:
            control.close()
            if error.errno in (ECONNREFUSED, ENOENT):
                text = "cannot start a container that has stopped"
                if self._alive():
                    text = "cannot start a container that is being started"
                raise WrongState("stopped", "created", text) from None
            raise
        launch.control = control
        return launch

    def _context(self) -> Context:
        from ocirt.build import rebuild_context

        return rebuild_context(self)

    def _poststart(self) -> None:
        """A poststart hook that fails ends the container (runtime.md, Lifecycle, step 9).

        The lock is free: a hook may delete the container.
        """
        hooks = (self.saved.get("hooks") or {}).get("poststart")
        if not hooks:
            return
        from ocirt.hooks import run_hooks

        try:
            run_hooks("poststart", hooks, self._hook_state("running"))
        except OcirtError:
            try:
                with self._open_to_destroy() as directory:
                    if directory.load()["startTime"] == self.saved["startTime"]:
                        self._kill_everything()
                        self._destroy(directory)
            except (NotFound, FileNotFoundError):
                pass  # the hook, or somebody meanwhile, has deleted it
            else:
                self._poststop()
            self.close()
            raise

    def _hook_state(self, status: str) -> dict[str, Any]:
        from ocirt.hooks import hook_state

        pid = self.saved["pid"] if status == "running" else 0
        return hook_state(self.saved, self.id, self.bundle, status, pid)

    def kill(self, signal: int, *, all: bool = False) -> None:  # noqa: A002 - runc's word
        """Send a signal to the init process, or with all to every process of the container."""
        manager = None
        if all or not self.saved.get("pidNamespace", True):
            manager = self.manager()
        # Without a pid namespace the end of the init ends nobody else: SIGKILL means them all.
        if manager is not None and (all or signal == kernel.SIGKILL):
            if not manager.pids():
                if self._send(signal):
                    return  # it has left its groups
                raise WrongState("stopped", "running", "container not running")
            if not all:
                self._send(signal)
            manager.kill_all(signal)
            return
        if not self._send(signal):
            raise WrongState("stopped", "running", "container not running")

    def _send(self, signal: int) -> bool:
        """False when the process has ended. The pidfd is checked: the pid may be another's now."""
        if not self.saved["pid"]:
            return False
        try:
            pidfd = kernel.pidfd_open(self.saved["pid"])
        except OSError as error:
            if error.errno == ESRCH:
                return False
            raise
        try:
            if not self._alive():
                return False
            self._signal(pidfd, signal)
        except OSError as error:
            if error.errno == ESRCH:
                return False
            raise
        finally:
            posix.close(pidfd)
        return True

    def _signal(self, pidfd: int, signal: int) -> None:
        """To the init process. In the freezer of v1 not even SIGKILL ends one: it has to go on."""
        kernel.pidfd_send_signal(pidfd, signal)
        if signal == kernel.SIGKILL and self.is_paused():
            freezer = self._freezer()
            assert freezer is not None
            freezer.thaw()

    def delete(self, *, force: bool = False) -> None:
        """Remove all that create made (runtime.md, Delete); force kills first.

        Raises WrongState when it runs and force is not given.
        """
        with self._open_to_destroy() if force else state.open_state(self.root, self.id) as directory:
            try:
                self.saved = directory.load()
            except FileNotFoundError:
                if not directory.is_ours():
                    raise NotFound(self.id) from None
                directory.remove()  # a create that was killed before it wrote anything
                return
            except (OcirtError, OSError):
                if not force or not directory.is_ours():
                    raise
                from ocirt import salvage

                salvage.delete(directory)
                return
            # The lock is ours: without a pid, the runtime that was creating it has died.
            status = self.status if self.saved["pid"] else "stopped"
            if status == "created" or (force and status != "stopped"):
                self._kill_everything()
            elif status != "stopped":
                text = f"cannot delete container {self.id} that is not stopped: {status}"
                raise WrongState(status, "stopped", text)
            self._destroy(directory)
        self._poststop()
        self.close()

    def _open_to_destroy(self) -> StateDir:
        """The locked directory. Who holds the lock may wait for a hook, or for an init that hangs:

        the container is killed then, and its command fails. Raises Busy after KILL_WAIT.
        """
        try:
            return state.open_state(self.root, self.id, patience=0)
        except state.Busy:
            self._kill_unlocked()
        return state.open_state(self.root, self.id, patience=KILL_WAIT)

    def _kill_unlocked(self) -> None:
        with state.open_state(self.root, self.id, lock=False) as directory:
            try:
                self.saved = directory.load()
            except FileNotFoundError:
                return  # nothing runs yet
            if self.saved["pid"]:
                self._send(kernel.SIGKILL)
            elif directory.claimed() and (manager := self.manager()) is not None:
                manager.kill_all(kernel.SIGKILL)

    def close(self) -> None:
        """Give up pidfd; a child that has ended is reaped before."""
        if self.pidfd >= 0:
            self._reap(self.pidfd, nohang=True)
            posix.close(self.pidfd)
            self.pidfd = -1

    def _reap(self, pidfd: int, nohang: bool = False) -> None:
        """Our own child leaves a zombie; somebody else's is theirs to reap."""
        try:
            found = kernel.waitid_pidfd(pidfd, nohang)
        except ChildProcessError:
            return
        if found is not None:
            self.exit_status = kernel.exit_status(*found[1:])

    def _kill_everything(self) -> None:
        try:
            pidfd = kernel.pidfd_open(self.saved["pid"])
        except OSError as error:
            if error.errno != ESRCH:
                raise
            return
        try:
            if not self._alive():
                return  # the pidfd may be that of a later owner of the pid
            self._signal(pidfd, kernel.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            if not poll.poll(KILL_WAIT * 1000):
                raise OcirtError(self._undead())
            self._reap(pidfd)
        finally:
            posix.close(pidfd)

    def _undead(self) -> str:
        from ocirt.cgroups.manager import describe_processes

        pids = [self.saved["pid"], *(pid for pid in self.pids() if pid != self.saved["pid"])]
        text = f"container {self.id} did not end within {KILL_WAIT:g} s of SIGKILL"
        return f"{text}: {describe_processes(pids)}"

    def _destroy(self, directory: StateDir) -> None:
        """cgroup, then state: in this order, so that a failure can be tried again."""
        manager = self.manager()
        if manager is not None:
            self._destroy_groups(manager, directory)
        if saved := self.saved.get("intelRdt"):
            from ocirt import intelrdt

            # Without a saved pid, or where an update only asked for it, it may be somebody else's.
            unsure = not self.saved["pid"] or saved.get("begun") == intelrdt.ASKED
            intelrdt.remove(saved["remove"], only_unused=unsure)
        directory.remove()

    def _poststop_of_failed(self, launch: Launch) -> None:
        """Hooks have run, or may have: those of poststop take back what they did (step 12)."""
        if launch.hooks_begun:
            self._poststop()
            launch.warnings += self.warnings

    def _poststop(self) -> None:
        """After the container is deleted (runtime.md, Lifecycle, step 13), without its lock."""
        hooks = (self.saved.get("hooks") or {}).get("poststop")
        if hooks:
            from ocirt.hooks import run_hooks

            for failed in run_hooks("poststop", hooks, self._hook_state("stopped"), only_warn=True):
                self.warnings.append(str(failed))

    def _destroy_groups(self, manager: Any, directory: StateDir) -> None:
        """Processes can outlive the init process where it had no pid namespace of its own.

        Without a saved pid the runtime died while it was creating: then the init and its hooks may
        live. Unless it had claimed the groups, somebody else may be in them.
        """
        created = bool(self.saved["pid"])
        if not created and not directory.claimed():
            manager.remove_empty()
            return
        if not created or not self.saved.get("pidNamespace", True):
            manager.kill_all(kernel.SIGKILL)
        manager.destroy()

    def exec(
        self,
        process: dict[str, Any],
        options: ExecOptions,
        *,
        console_fd: int = -1,
        on_ready: Callable[[Exec], None] | None = None,
    ) -> Exec:
        """Start another process in the container; it runs when this returns.

        process is the process object of config.json. Raises WrongState, or what failed.
        """
        status = self.status
        if status == "stopped":
            raise WrongState(status, "running", "cannot exec in a stopped container")
        if status == "creating":
            raise WrongState(status, "running", "cannot exec in a container that is being created")
        freezer = self._freezer()
        if not options.ignore_paused and freezer is not None and freezer.is_frozen():
            text = "cannot exec in a paused container (use --ignore-paused to override)"
            raise WrongState("paused", "running", text)
        try:
            return self._exec(process, options, console_fd, on_ready)
        except ExecutableError:
            raise
        except (StepError, CgroupError, InitDied):
            # Whatever was gone went with the container: podman would take an ENOENT for a missing
            # command.
            if self.status == "stopped":
                raise WrongState("stopped", "running", "cannot exec in a stopped container") from None
            raise

    def _exec(
        self,
        process: dict[str, Any],
        options: ExecOptions,
        console_fd: int,
        on_ready: Callable[[Exec], None] | None,
    ) -> Exec:
        from ocirt.build import build_exec
        from ocirt.launch import Launch

        trace = _open_trace(options)
        ctx = build_exec(self, process, options)
        launch = Launch(ctx.plan, ctx, trace=trace)
        if ctx.terminal:
            _connect_console(ctx, options, console_fd)
        launch.prepare()
        launch.spawn()
        started = Exec(launch)

        def ready() -> None:
            started.pid, started.pidfd = launch.pid, launch.pidfd
            _leave_pid_file(options.pid_file, launch)
            if on_ready is not None:
                on_ready(started)

        try:
            launch.run_to_ready(ready)
            launch.run_to_exec()
        finally:
            if trace:
                trace.write()
        launch.close()
        started.warnings = ctx.warnings + launch.warnings
        return started

    def wait(self) -> int:
        """Wait for the init process, which must be our child; 128 + N when signal N ended it."""
        if self.exit_status is None:
            self.exit_status = wait_for(self.pidfd)
            self.warnings += self.oom_report()
            if self.exit_status == 128 + SIGILL:
                from ocirt.explain import end_by_profile

                self.warnings += end_by_profile(self.spec)
        return self.exit_status


class Exec:
    """A process started by Container.exec; the caller waits for it and closes it."""

    def __init__(self, launch: Launch) -> None:
        self.pid = launch.pid
        self.pidfd = launch.pidfd
        self.warnings: list[str] = []

    def wait(self) -> int:
        """Exit status, 128 + N when signal N ended it."""
        return wait_for(self.pidfd)

    def close(self) -> None:
        if self.pidfd >= 0:
            posix.close(self.pidfd)
            self.pidfd = -1


def _how_it_ended(pidfd: int) -> str:
    """Words for an init that ended between start and the user's program."""
    text = "the init that waited for start ended before the program ran"
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(1000)  # its socket is closed a little before it is dead
    try:
        found = kernel.waitid_pidfd(pidfd, nohang=True, keep=True)
    except ChildProcessError:  # somebody else's child, and the kernel does not tell (before 6.15)
        return text
    if found is None:
        return text
    code, value = found[1:]
    how = "exit status" if code == kernel.CLD_EXITED else "killed by signal"
    return f"{text}: {how} {value}"


def wait_for(pidfd: int) -> int:
    """Exit status of our child, as a shell tells it."""
    found = kernel.waitid_pidfd(pidfd)
    assert found is not None
    return kernel.exit_status(*found[1:])


def _check_rootfs(ctx: Context) -> None:
    """What is missing or out of our reach is told by the init; a file would look like a root to it."""
    try:
        mode = posix.stat(ctx.rootfs).st_mode
    except OSError:
        return
    if mode & S_IFMT != S_IFDIR:
        raise StepError(ENOTDIR, "open", "root.path", kernel.fsdecode(ctx.rootfs))


def _first_state(ctx: Context) -> dict[str, Any]:
    from ocirt.procfs import start_time

    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    hooks = ctx.spec.get("hooks") or {}
    return {
        "ociVersion": ctx.spec["ociVersion"],
        "id": ctx.id,
        "pid": 0,
        "startTime": 0,
        "creator": [posix.getpid(), start_time("self")],
        "bundle": ctx.bundle,
        "rootfs": kernel.fsdecode(ctx.rootfs),
        "created": f"{stamp}.{now % 10**9:09}Z",
        "annotations": ctx.spec.get("annotations") or {},
        "owner": _owner(ctx.host.euid),
        "pidNamespace": "pid" in ctx.new_ns,
        "noNewKeyring": ctx.no_new_keyring,
        "cgroup": ctx.cgroup.save() if ctx.cgroup is not None else None,
        "hooks": {kind: hooks[kind] for kind in ("poststart", "poststop") if hooks.get(kind)},
        **({"intelRdt": ctx.intel_rdt.save()} if ctx.intel_rdt is not None else {}),
    }


def _owner(uid: int) -> str:
    if uid == 0:
        return "root"
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _open_trace(options: Any) -> Any:
    path = getattr(options, "trace", None)
    if not path:
        return None
    from ocirt.trace import Trace

    return Trace(path)


def _listen(dirfd: int) -> int:
    """The start socket, bound through the directory's fd (sun_path holds 108 bytes)."""
    fd = kernel.unix_listen(f"/proc/self/fd/{dirfd}/start", kernel.SOCK_SEQPACKET, 1)
    posix.chmod("start", 0o600, dir_fd=dirfd)
    return fd


def _connect_console(ctx: Context, options: Any, console_fd: int) -> None:
    """Who gets the terminal's master: --console-socket, or the caller itself."""
    path = options.console_socket
    place = ctx.console_socket
    assert place is not None
    if path:
        from ocirt.unixsocket import connect

        place.opener = lambda: connect(path, "--console-socket")
    elif console_fd >= 0:
        place.opener = lambda: posix.dup(console_fd)
    else:
        raise SpecError("process.terminal", "is true, so a console socket is needed to stay detached")


def _leave_pid_file(path: str | None, launch: Launch) -> None:
    if path:
        write_pid_file(path, launch.pid)
        launch.undo(lambda: _unlink(path))


def write_pid_file(path: str, pid: int) -> None:
    """Plain decimal without a newline, complete as soon as it has its name."""
    try:
        replaced = posix.lstat(path).st_mode & S_IFMT
    except FileNotFoundError:
        replaced = S_IFREG
    if replaced != S_IFREG:  # /dev/stdout is a link of the host's, and others need it
        raise OcirtError(f"--pid-file: {path} is there and is not a regular file")
    directory, _, name = path.rpartition("/")
    partial = f"{directory}/.{name}.new" if directory else f".{name}.new"
    _unlink(partial)  # of a runtime that was killed, or somebody's link to elsewhere
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    fd = posix.open(partial, flags, 0o644)
    try:
        kernel.write_all(fd, str(pid).encode())
    except BaseException:
        _unlink(partial)
        raise
    finally:
        posix.close(fd)
    try:
        posix.rename(partial, path)
    except BaseException:
        _unlink(partial)
        raise


def _unlink(path: str) -> None:
    try:
        posix.unlink(path)
    except FileNotFoundError:
        pass

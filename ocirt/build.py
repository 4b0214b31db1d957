"""From a bundle to a compiled plan, and the same for exec and start."""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.cgroups.apply import is_cloned_into
from ocirt.cgroups.resources import read_as_written
from ocirt.context import Context
from ocirt.errors import StepError
from ocirt.fields import compile_fields
from ocirt.namespaces import first_flags
from ocirt.plan import Plan
from ocirt.spec import check, load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.container import Container
    from ocirt.host import Host
    from ocirt.options import CreateOptions, ExecOptions


def build_create(
    bundle: str, container_id: str, options: CreateOptions, *, start: bool = False
) -> tuple[Context, bytes]:
    """Context with the compiled plan, and the bytes of config.json. Raises SpecError, Unsupported.

    Nothing is changed and no privilege is needed.
    """
    ctx, text = begin_create(bundle, container_id, options, start=start)
    compile_fields(ctx, "create")
    return ctx, text


def begin_create(
    bundle: str, container_id: str, options: CreateOptions, *, start: bool = False
) -> tuple[Context, bytes]:
    """Context of a document that has been checked, and the bytes of config.json.

    Its plan says how the init is started, and nothing else yet: compile_fields() is the next step.
    """
    from ocirt.host import Host

    bundle = real_directory(bundle)
    text = load.read(getattr(options, "config_file", "") or bundle)
    spec = load.parse(text)
    check.check(spec)
    return _context(spec, bundle, container_id, options, Host(), start), text


def compile_create(
    spec: dict[str, Any],
    bundle: str,
    container_id: str,
    options: CreateOptions,
    host: Host,
    *,
    start: bool = False,
) -> Context:
    """Context with the plan of a document that has been checked.

    start: the program runs at once, so that the plan has no wait for a start command.
    """
    ctx = _context(spec, bundle, container_id, options, host, start)
    compile_fields(ctx, "create")
    return ctx


def _context(
    spec: dict[str, Any], bundle: str, container_id: str, options: CreateOptions, host: Host, start: bool
) -> Context:
    """All that is known before the plan is compiled: enough to start the init."""
    spec = read_as_written(spec)
    plan = Plan()
    ctx = Context(spec, plan, bundle=bundle, container_id=container_id, options=options, host=host)
    if ctx.terminal or options.console_socket:
        ctx.console_socket = plan.handle("console socket", "process.terminal", _not_given)
    if not start:
        ctx.start_socket = plan.handle("start socket", "process", _not_given)
    plan.keep_fds = preserved_fds(options.preserve_fds)
    plan.clone_flags, plan.unshare_flags = first_flags(ctx)
    plan.early = not is_cloned_into(ctx)
    return ctx


def build_exec(container: Container, process: dict[str, Any], options: ExecOptions) -> Context:
    """Context with the plan that runs another process in a container (runc exec)."""
    from ocirt.host import Host
    from ocirt.namespaces import join_container
    from ocirt.process import apply_final_affinity, apply_initial_affinity

    check.check_process(process)
    spec = {**container.spec, "process": process}
    plan = Plan()
    ctx = Context(
        spec,
        plan,
        bundle=container.bundle,
        container_id=container.id,
        options=options,
        host=Host(),
        is_exec=True,
    )
    if ctx.terminal or options.console_socket:
        ctx.console_socket = plan.handle("console socket", "process.terminal", _not_given)
    ctx.no_new_keyring = bool(container.saved.get("noNewKeyring"))
    plan.keep_fds = preserved_fds(options.preserve_fds)
    affinity = process.get("execCPUAffinity") or {}
    apply_initial_affinity(ctx, affinity)
    manager = container.manager()
    if manager is not None:
        from ocirt.cgroups.apply import join

        if options.cgroups:
            from ocirt.cgroups.below import below

            manager = below(manager, options.cgroups)
        join(ctx, manager, container.saved["pid"])
    if saved := container.saved.get("intelRdt"):
        from ocirt import intelrdt

        intelrdt.join(ctx, saved)
    apply_final_affinity(ctx, affinity)
    pidfd = plan.handle(f"pidfd of {container.id}", "linux.namespaces", lambda: _checked_pidfd(container))
    root = f"/proc/{container.saved['pid']}/root"
    flags = posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC
    join_container(ctx, pidfd, lambda: posix.open(root, flags))
    compile_fields(ctx, "exec")
    return ctx


def rebuild_context(container: Container) -> Context:
    """What start needs to word a failure, from the document of create; nothing is compiled."""
    from ocirt.host import Host
    from ocirt.options import CreateOptions

    options = CreateOptions()
    ctx = Context(
        container.spec,
        Plan(),
        bundle=container.bundle,
        container_id=container.id,
        options=options,
        host=Host(),
    )
    ctx.rootfs = kernel.fsencode(container.saved["rootfs"])
    ctx.cgroup = container.manager()
    return ctx


def real_directory(path: str) -> str:
    """Absolute path of the bundle, without links: the state document needs it."""
    try:
        fd = posix.open(path, posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError as error:
        raise StepError(error.errno or 0, "open", "bundle", path) from None
    try:
        return str(posix.readlink(f"/proc/self/fd/{fd}"))
    finally:
        posix.close(fd)


def preserved_fds(count: int) -> list[int]:
    """3 to 2 + count. Raises StepError for one that the caller has not passed.

    Our own fds are close-on-exec; one of them in this range would leak into the container.
    """
    import fcntl

    fds = list(range(3, 3 + count))
    for fd in fds:
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError as error:
            raise StepError(error.errno or 0, "fcntl", "--preserve-fds", f"fd {fd}") from None
        if flags & fcntl.FD_CLOEXEC:
            raise StepError(kernel.EBADF, "fcntl", "--preserve-fds", f"fd {fd}")
    return fds


def _checked_pidfd(container: Container) -> int:
    """A pidfd of the init process itself, not of a later owner of its pid."""
    pidfd = kernel.pidfd_open(container.saved["pid"])
    if not container.pid:
        posix.close(pidfd)
        raise StepError(kernel.ESRCH, "pidfd_open", "linux.namespaces", container.id)
    return pidfd


def _not_given() -> int:
    raise StepError(kernel.ENOTCONN, "connect", "process.terminal", "console socket")

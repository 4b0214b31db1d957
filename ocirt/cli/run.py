"""run: create, start, wait and delete."""

from __future__ import annotations

from ocirt.cli.create import OPTIONS as CREATE_OPTIONS
from ocirt.cli.create import create_options, pidfd_sender
from ocirt.cli.parse import BOOL, expect
from ocirt.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {
    **CREATE_OPTIONS,
    "detach": BOOL,
    "d": "detach",
    "keep": BOOL,
    "no-subreaper": BOOL,
}


def run(call: Call) -> int:
    expect("run", call.words, 1, 1)
    values = call.values
    container_id = call.words[0]
    options = create_options(call, container_id)
    bundle = values.get("bundle") or "."
    send_pidfd = pidfd_sender(call)
    if not values.get("detach"):
        from ocirt.foreground import run_bundle

        status, warnings = run_bundle(
            bundle,
            container_id,
            call.root,
            options,
            keep=values.get("keep", False),
            subreaper=not values.get("no_subreaper"),
            on_created=send_pidfd,
            leaving=True,
        )
    elif options.notify_directory:
        from ocirt.notify import start_and_await_ready

        container = Container.create(
            bundle, container_id, root=call.root, options=options, on_created=send_pidfd
        )
        try:
            start_and_await_ready(container)
        except BaseException:
            container.delete(force=True)
            raise
        status, warnings = 0, container.warnings
    else:
        container = Container.create(
            bundle, container_id, root=call.root, options=options, start=True, on_created=send_pidfd
        )
        status, warnings = 0, container.warnings
    for warning in warnings:
        call.log.warning(warning)
    return status

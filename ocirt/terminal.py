"""process.terminal and process.consoleSize."""

from __future__ import annotations

from ocirt.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.context import Context


def apply_console(ctx: Context, _terminal: bool | None) -> None:
    """process.terminal: a pty of the container's own devpts; its master goes to the console socket.

    The peer is opened with TIOCGPTPEER, never by its path (CVE-2025-52565).
    """
    if not ctx.terminal:
        if ctx.options.console_socket:
            raise SpecError("process.terminal", "is false, but a console socket was given")
        return
    if ctx.console_socket is None:
        raise SpecError(
            "process.terminal", "is true, so a console socket is needed when the runtime does not stay"
        )
    size = (ctx.spec.get("process") or {}).get("consoleSize") or {}
    rows, cols = size.get("height") or 0, size.get("width") or 0
    on_dev_console = 0
    if not ctx.is_exec and ctx.has_ns("mount"):
        from ocirt.devices import dev_is_bound  # not loaded for exec

        on_dev_console = 0 if dev_is_bound(ctx) else 1
    ctx.plan.add("make_console", "process.terminal", ctx.root, ctx.console_socket, rows, cols, on_dev_console)

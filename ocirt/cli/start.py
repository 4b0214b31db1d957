"""start: let the program of a created container run."""

from __future__ import annotations

from ocirt import kernel
from ocirt.cli.parse import expect
from ocirt.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {}


def run(call: Call) -> int:
    expect("start", call.words, 1, 1)
    container = Container.load(call.words[0], call.root)
    if not kernel.getenv("NOTIFY_SOCKET"):
        container.start()
    else:
        from ocirt.notify import start_and_await_ready

        start_and_await_ready(container)
    for warning in container.warnings:
        call.log.warning(warning)
    return 0

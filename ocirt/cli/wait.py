"""wait: until a container has ended; prints its exit status."""

from __future__ import annotations

from ocirt.cli.output import out
from ocirt.cli.parse import expect
from ocirt.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {}


def run(call: Call) -> int:
    expect("wait", call.words, 1, 1)
    container = Container.load(call.words[0], call.root)
    status = container.await_end()
    for warning in container.warnings:
        call.log.warning(warning)
    if status is None:
        call.log.warning("the container has ended, and nobody tells its exit status")
    else:
        out(f"{status}\n")
    return 0

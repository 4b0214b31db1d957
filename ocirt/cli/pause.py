"""pause: stop all processes of a container."""

from __future__ import annotations

from ocirt.cli.parse import expect
from ocirt.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {}


def run(call: Call) -> int:
    expect("pause", call.words, 1, 1)
    Container.load(call.words[0], call.root).pause()
    return 0

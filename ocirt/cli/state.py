"""state: the state document of one container."""

from __future__ import annotations

from ocirt.cli.output import out
from ocirt.cli.parse import expect
from ocirt.container import Container
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {}


def run(call: Call) -> int:
    expect("state", call.words, 1, 1)
    out(dumps(Container.load(call.words[0], call.root).state(), "  ") + "\n")
    return 0

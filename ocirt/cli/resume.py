"""resume: let the processes of a paused container go on."""

from __future__ import annotations

from ocirt.cli.parse import expect
from ocirt.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {}


def run(call: Call) -> int:
    expect("resume", call.words, 1, 1)
    Container.load(call.words[0], call.root).resume()
    return 0

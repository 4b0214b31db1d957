"""features: what this build can do, as the features document of runtime-spec."""

from __future__ import annotations

from ocirt.cli.output import out
from ocirt.cli.parse import expect
from ocirt.features import features
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {}


def run(call: Call) -> int:
    expect("features", call.words, 0, 0)
    out(dumps(features(), "    ") + "\n")
    return 0

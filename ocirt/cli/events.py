"""events: what a container uses, every so often, and when it runs out of memory."""

from __future__ import annotations

from ocirt.cli.output import out
from ocirt.cli.parse import BOOL, TEXT, expect
from ocirt.container import Container
from ocirt.errors import OcirtError
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"stats": BOOL, "interval": TEXT}
UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}  # noqa: RUF001


def run(call: Call) -> int:
    expect("events", call.words, 1, 1)
    interval = seconds(call.values.get("interval", "5s"))
    if interval <= 0:
        raise OcirtError("duration interval must be greater than 0")
    container = Container.load(call.words[0], call.root)
    if call.values.get("stats"):
        tell(container.stats())
    else:
        container.watch(interval, tell)
    return 0


def tell(event: dict[str, Any]) -> None:
    out(dumps(event) + "\n")


def seconds(text: str) -> float:
    """A duration as Go writes it: 5s, 100ms, 1m30s, 1.5h. Raises OcirtError."""
    total = 0.0
    rest = "" if text == "0" else text
    while rest:
        number = _leading(rest, "0123456789.")
        unit = _leading(rest[len(number) :], "nuµmsh")  # noqa: RUF001
        if unit not in UNITS or number.count(".") > 1 or not number.strip("."):
            raise OcirtError(f'invalid value "{text}" for flag -interval: it is no time such as 5s or 100ms')
        total += float(number) * UNITS[unit]
        rest = rest[len(number) + len(unit) :]
    return total


def _leading(text: str, letters: str) -> str:
    """The longest beginning that is made of letters."""
    return text[: len(text) - len(text.lstrip(letters))]

"""list: the containers below the state root."""

from __future__ import annotations

from ocirt.cli.output import out
from ocirt.cli.parse import BOOL, TEXT, expect
from ocirt.container import Container
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"format": TEXT, "f": "format", "quiet": BOOL, "q": "quiet"}
HEADER = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
LEAST_WIDTH = 12
GAP = 3


def run(call: Call) -> int:
    expect("list", call.words, 0, 0)

    def tell(container_id: str, error: Exception) -> None:
        text = f"{container_id} is left out: {error}"
        call.log.warning(text)

    found = Container.list(call.root, on_error=tell)
    form = call.values.get("format", "table")
    if form not in ("table", "json"):
        raise OcirtError("invalid format option")
    if call.values.get("quiet"):
        out("".join(f"{state['id']}\n" for state in found))
    elif form == "json":
        from ocirt.spec.jsontext import dumps

        out(dumps(found or None) + "\n")
    else:
        out(table([HEADER, *map(_row, found)]))
    return 0


def _row(state: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(state[name.lower()]) for name in HEADER)


def table(rows: list[tuple[str, ...]], least: int = LEAST_WIDTH) -> str:
    """Columns as wide as their widest cell and a gap; the last one ends where it ends."""
    widths = [max(least, GAP + max(map(len, column))) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("".join([*cells, row[-1]]).rstrip() + "\n")
    return "".join(lines)

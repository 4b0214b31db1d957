"""verify: what was asked for next to what the kernel has in force; status 1 when they differ."""

from __future__ import annotations

from ocirt.cli.list import table
from ocirt.cli.output import out
from ocirt.cli.parse import BOOL, NUMBER, TEXT, expect
from ocirt.container import Container
from ocirt.errors import UsageError, WrongState
from ocirt.spec.jsontext import dumps
from ocirt.verify import verify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {
    "pid": NUMBER,
    "config": TEXT,
    "f": "config",
    "json": BOOL,
}
HEADER = ("FIELD", "ASKED", "IN FORCE", "")
WIDEST = 48  # characters of a cell that is as asked


def run(call: Call) -> int:
    pid, spec = _subject(call)
    findings = verify(pid, spec)
    differ = [finding for finding in findings if finding[1] != finding[2]]
    if call.values.get("json"):
        out(dumps([_entry(finding) for finding in findings], "  ") + "\n")
    else:
        out(table([HEADER, *map(_row, findings)], least=0))
        out(f"{len(findings)} fields, {len(differ)} differ\n")
    return 1 if differ else 0


def _subject(call: Call) -> tuple[int, dict[str, Any]]:
    if "pid" in call.values or "config" in call.values:
        if call.words or not ("pid" in call.values and "config" in call.values):
            raise UsageError("verify takes a container's id, or --pid and --config")
        from ocirt.spec.load import load

        return call.values["pid"], load(call.values["config"])
    expect("verify", call.words, 1, 1)
    container = Container.load(call.words[0], call.root)
    pid = container.pid
    if not pid:
        raise WrongState("stopped", "running", "cannot verify a container that is not running")
    return pid, container.spec


def _entry(finding: tuple[str, str, str]) -> dict[str, Any]:
    field, asked, found = finding
    return {"field": field, "asked": asked, "inForce": found, "ok": asked == found}


def _row(finding: tuple[str, str, str]) -> tuple[str, ...]:
    field, asked, found = finding
    if asked == found:
        return field, _cut(asked), _cut(found), "ok"
    return field, asked, found, "DIFFERS"


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"

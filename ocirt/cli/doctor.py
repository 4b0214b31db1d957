"""doctor: what this host offers, what is missing for what, and the command that mends it."""

from __future__ import annotations

from ocirt.cli.list import table
from ocirt.cli.output import out
from ocirt.cli.parse import BOOL, expect
from ocirt.doctor import BROKEN, OK, Finding, examine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"json": BOOL}
HEADER = ("AREA", "WHAT", "STATE", "FOUND")


def run(call: Call) -> int:
    expect("doctor", call.words, 0, 0)
    findings = examine()
    broken = [each for each in findings if each.state == BROKEN]
    if call.values.get("json"):
        from ocirt.spec.jsontext import dumps

        out(dumps({"ok": not broken, "findings": [each.document() for each in findings]}, "  ") + "\n")
    else:
        out(text(findings))
    return 1 if broken else 0


def text(findings: list[Finding]) -> str:
    rows = [(each.area, each.name, each.state, each.found) for each in findings]
    shown = table([HEADER, *rows], least=0)
    wanting = [each for each in findings if each.state != OK]
    if not wanting:
        return f"{shown}\nnothing is missing\n"
    lines = []
    for each in wanting:
        lines.append(f"{each.name}: {each.found}; needed for {each.needed}\n")
        if each.mend:
            lines.append(f"    {each.mend}\n")
    return f"{shown}\n{''.join(lines)}"

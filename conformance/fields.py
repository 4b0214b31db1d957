#!/usr/bin/env python3
"""Write conformance/FIELDS.md from the table of fields: `python conformance/fields.py`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ocirt.fields import ALONG_WITH, IGNORED, ROWS, UNSUPPORTED

TARGET = Path(__file__).with_name("FIELDS.md")


def document() -> str:
    """The page as it should be."""
    lines = [
        "# Fields of config.json",
        "",
        "Made from `ocirt/fields.py` by `python conformance/fields.py`; a test keeps it fresh.",
        "The rows stand in the order in which they are applied. Appliers are below `ocirt/`,",
        "observers (what `ocirt verify` reads back) below `ocirt/observe/`.",
        "",
        "| Field | Phase | Applier | Observer | Specification |",
        "|---|---|---|---|---|",
    ]
    for field, applier, observer, phase, _always, commands, section in ROWS:
        also = " (also exec)" if "exec" in commands else ""
        seen = f"`{observer}`" if observer else ""
        lines.append(f"| `{field}` | {phase}{also} | `{applier}` | {seen} | {section} |")
    for title, table in (
        ("Applied along with others", ALONG_WITH),
        ("Refused as not supported", UNSUPPORTED),
        ("Ignored", IGNORED),
    ):
        lines += ["", f"## {title}", "", "| Field | |", "|---|---|"]
        lines += [f"| `{field}` | {reason} |" for field, reason in table.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document())

"""The table of fields covers every property of the schemas, and names what exists."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from ocirt import fields
from ocirt.spec.walk import properties

# Rows whose field is too wide to count as the row of what is below it.
WIDE = {"process", "root", "hooks"}
REPOSITORY = Path(__file__).parents[2]


def _covered(name: str) -> bool:
    rows = {row[0] for row in fields.ROWS} - WIDE
    known = rows | fields.ALONG_WITH.keys() | fields.UNSUPPORTED.keys() | fields.IGNORED.keys()
    plain = name.replace("[]", "").replace("{}", "")
    parts = plain.split(".")
    return any(".".join(parts[:i]) in known for i in range(1, len(parts) + 1))


def test_every_property_of_the_schema_has_a_row_or_a_reason() -> None:
    containers = {"process", "root", "hooks", "linux"}
    missing = [
        name for name in properties() if name not in containers and name != "root.path" and not _covered(name)
    ]
    assert missing == []


@pytest.mark.parametrize("row", fields.ROWS, ids=lambda row: row[1])
def test_appliers_and_observers_exist(row: tuple[str, ...]) -> None:
    module, _, function = row[1].partition(":")
    assert callable(getattr(fields.load_module(module), function))
    if row[2]:
        module, _, function = row[2].partition(":")
        assert callable(getattr(fields.load_module(f"observe.{module}"), function))


def test_rows_stand_in_the_order_of_the_phases() -> None:
    order = ["ENTER", "CHILD", "PROCESS", "LAST"]
    phases = [order.index(row[3]) for row in fields.ROWS]
    assert phases == sorted(phases)


def test_the_page_of_fields_is_fresh() -> None:
    spec = importlib.util.spec_from_file_location("page", REPOSITORY / "conformance/fields.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (REPOSITORY / "conformance/FIELDS.md").read_text() == page.document()

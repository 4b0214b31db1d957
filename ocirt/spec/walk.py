"""The names of everything that the schemas know, for the table of fields and its tests."""

from __future__ import annotations

from ocirt.spec import wording

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def properties(name: str = "config") -> Iterator[str]:
    """Every property of a schema, parents first: "process", "process.user", "process.user.uid".

    Elements of a list are written "mounts[].type", members of a map "linux.netDevices{}.name".
    name is the schema's, as for wording.errors.
    """
    whole = wording.schema(name)
    return _below(whole, whole["$defs"], "")


def _below(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> Iterator[str]:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    for name, member in schema.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        yield place
        yield from _below(member, definitions, place)
    if "items" in schema:
        yield from _below(schema["items"], definitions, f"{path}[]")
    if "additionalProperties" in schema:
        yield from _below(schema["additionalProperties"], definitions, f"{path}{{}}")

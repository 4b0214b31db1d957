"""Documents with one thing changed: each is judged alike by both checks, and never a surprise."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path

import pytest

from ocirt.errors import SpecError
from ocirt.spec import _compiled, compile_schemas, wording
from ocirt.spec.check import check, warnings
from ocirt.spec.example import example, rootless_example

TOP = Path(__file__).parents[2]
SCHEMAS = compile_schemas.read_schemas(str(TOP / "schemas"))
CONFIGS = sorted((TOP / "tests/data/configs").glob("**/*.json"))
# What a leaf is replaced with; sums up what can be wrong with one.
MUTANTS = (
    None,
    True,
    -1,
    0,
    7,
    2**31,
    2**32,
    2**63,
    2**64,
    1.0,
    "",
    "x",
    "a\0b",
    "\ud800",
    "é",
    [],
    [None],
    {},
    {"a": 1},
)


def documents():
    yield "everything", everything(SCHEMAS["config"])
    yield "example", example()
    yield "rootless", rootless_example(1000, 1000)
    for path in CONFIGS:
        document = json.loads(path.read_text())
        if isinstance(document, dict) and "ociVersion" in document:
            yield path.name, document


def everything(schema):
    """A document with every member that the schema names."""
    while "$ref" in schema:
        schema = SCHEMAS["config"]["$defs"][schema["$ref"].rpartition("/")[2]]
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        made = {name: everything(below) for name, below in schema.get("properties", {}).items()}
        if "additionalProperties" in schema:
            made["some"] = everything(schema["additionalProperties"])
        return made
    if schema["type"] == "array":
        return [everything(schema["items"])]
    return {"string": "r", "boolean": False, "integer": 1}[schema["type"]]


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for name in value:
            yield from places(value[name], (*path, name))
    elif isinstance(value, list):
        for i in range(len(value)):
            yield from places(value[i], (*path, i))


def excerpt(value, path):
    """A copy with what is on the path and the small things beside it; jsonschema is slow."""
    if not path:
        return copy.deepcopy(value)
    if isinstance(value, list):
        return [excerpt(element, path[1:]) if i == path[0] else element for i, element in enumerate(value)]
    return {
        name: excerpt(member, path[1:]) if name == path[0] else copy.deepcopy(member)
        for name, member in value.items()
        if name == path[0] or not isinstance(member, dict | list) or len(member) == 1
    }


def shapes():
    """{document name: (document, paths)}: every kind of place in all documents, each once.

    Elements of one list are alike, and what one engine's config has others have, too.
    """
    found = {}
    seen = set()
    for name, document in documents():
        paths = []
        for path in places(document):
            shape = tuple(part if isinstance(part, str) else "*" for part in path)
            if path and shape not in seen:
                seen.add(shape)
                paths.append(path)
        if paths:
            found[name] = (document, paths)
    return found


ALL = dict(documents())
SHAPES = shapes()


@pytest.mark.parametrize("name", ALL)
def test_document_is_valid(name):
    assert _compiled.check(ALL[name], _compiled.DOCUMENTS["config"])


@pytest.mark.parametrize("name", SHAPES)
def test_compiled_check_and_jsonschema_agree_on_mutants(name):
    document, paths = SHAPES[name]
    validator = wording.validator("config")
    for path in paths:
        parent = mutant = excerpt(document, path)
        for part in path[:-1]:
            parent = parent[part]
        for value in MUTANTS:
            parent[path[-1]] = value
            fast = _compiled.check(mutant, _compiled.DOCUMENTS["config"])
            assert fast == validator.is_valid(mutant), (path, value)
        del parent[path[-1]]
        assert _compiled.check(mutant, _compiled.DOCUMENTS["config"]) == validator.is_valid(mutant), path


@pytest.mark.parametrize("name", SHAPES)
def test_mutant_of_the_right_shape_meets_rules_and_remarks_without_a_traceback(name):
    document, paths = SHAPES[name]
    for path in paths:
        mutant = copy.deepcopy(document)
        parent = mutant
        for part in path[:-1]:
            parent = parent[part]
        for value in (None, 0, -1, 2**32 - 1, 2**63 - 1, "", "x", "/", "..", [], {}):
            parent[path[-1]] = value
            if not _compiled.check(mutant, _compiled.DOCUMENTS["config"]):
                continue
            with contextlib.suppress(SpecError):
                check(mutant)
                warnings(mutant)

"""schemas/ and what is compiled from them."""

from __future__ import annotations

import copy
import json
import typing
from pathlib import Path

import jsonschema
import pytest

from ocirt.spec import _compiled, compile_schemas, types, wording
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
    yield "example", example()
    yield "rootless", rootless_example(1000, 1000)
    yield "everything", everything(SCHEMAS["config"])
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
        return [
            excerpt(element, path[1:]) if i == path[0] else element for i, element in enumerate(value[:2])
        ]
    return {
        name: excerpt(member, path[1:]) if name == path[0] else copy.deepcopy(member)
        for name, member in value.items()
        if name == path[0] or not isinstance(member, dict | list) or len(member) == 1
    }


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_is_valid_against_its_meta_schema(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        assert compile_schemas.main([str(tmp_path / name), str(TOP / "schemas")]) == 0
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_compiled_module_is_made_from_the_schemas_that_are_here():
    assert json.loads(_compiled.SCHEMAS.replace('"#/', '"')) == json.loads(
        json.dumps(SCHEMAS).replace('"config.schema.json#/', '"').replace('"#/', '"')
    )


def test_unknown_keyword_stops_the_build():
    with pytest.raises(SystemExit, match="cannot compile uniqueItems"):
        compile_schemas.compile_module({"config": {"$defs": {}, "type": "array", "uniqueItems": True}})


@pytest.mark.parametrize("document", [pytest.param(document, id=name) for name, document in documents()])
def test_document_is_valid(document):
    assert _compiled.check(document, _compiled.DOCUMENTS["config"])


@pytest.mark.parametrize("document", [pytest.param(document, id=name) for name, document in documents()])
def test_compiled_check_and_jsonschema_agree_on_mutants(document):
    validator = wording.validator("config")
    seen = set()
    for path in places(document):
        # Elements of one list are alike: the first two stand for all.
        if not path or any(isinstance(part, int) and part > 1 for part in path):
            continue
        shape = tuple(part if isinstance(part, str) else "*" for part in path)
        if shape in seen:
            continue
        seen.add(shape)
        parent = mutant = excerpt(document, path)
        for part in path[:-1]:
            parent = parent[part]
        for value in MUTANTS:
            parent[path[-1]] = value
            fast = _compiled.check(mutant, _compiled.DOCUMENTS["config"])
            assert fast == validator.is_valid(mutant), (path, value)
        del parent[path[-1]]
        assert _compiled.check(mutant, _compiled.DOCUMENTS["config"]) == validator.is_valid(mutant), path


@pytest.mark.parametrize(
    ("schema", "document", "valid"),
    [
        ("process", {"cwd": "/", "args": ["a"]}, True),
        ("process", {"args": ["a"]}, False),
        ("resources", {"memory": {"limit": -1}, "unified": None}, True),
        ("resources", {"memory": {"limit": "1g"}}, False),
        ("state", {"ociVersion": "1.3.0", "id": "a", "status": "paused", "bundle": "/b"}, True),
        ("state", {"ociVersion": "1.3.0", "id": "a", "status": "paused"}, False),
        (
            "features",
            {"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0", "linux": {"cgroup": {"v1": True}}},
            True,
        ),
        (
            "features",
            {"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0", "linux": {"cgroup": {"v1": 1}}},
            False,
        ),
        ("config", [], False),
    ],
)
def test_each_schema_decides(schema, document, valid):
    assert _compiled.check(document, _compiled.DOCUMENTS[schema]) is valid
    assert wording.validator(schema).is_valid(document) is valid


def test_typed_dicts_name_what_the_schema_names():
    """Walks both; the schema's required members are the required keys."""

    def compare(schema, kind, path):
        while "$ref" in schema:
            schema = SCHEMAS["config"]["$defs"][schema["$ref"].rpartition("/")[2]]
        kind = plain(kind)
        if typing.is_typeddict(kind):
            hints = typing.get_type_hints(kind)
            assert set(hints) == set(schema["properties"]), path
            assert kind.__required_keys__ == set(schema.get("required", ())), path
            for name, hint in hints.items():
                compare(schema["properties"][name], hint, f"{path}.{name}")
        elif typing.get_origin(kind) is list:
            compare(schema["items"], typing.get_args(kind)[0], f"{path}[]")
        elif typing.get_origin(kind) is dict and "additionalProperties" in schema:
            compare(schema["additionalProperties"], typing.get_args(kind)[1], f"{path}.*")
        else:
            expected = {"string": str, "boolean": bool, "integer": int}.get(schema.get("type", "string"))
            assert expected is None or kind is expected, path

    def plain(kind):
        arguments = [one for one in typing.get_args(kind) if one is not type(None)]
        return arguments[0] if type(None) in typing.get_args(kind) else kind

    compare(SCHEMAS["config"], types.Spec, "")

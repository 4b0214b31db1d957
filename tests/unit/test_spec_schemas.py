"""schemas/ and what is compiled from them."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import jsonschema
import pytest

from ocirt.spec import _compiled, compile_schemas, types, walk, wording

TOP = Path(__file__).parents[2]
SCHEMAS = compile_schemas.read_schemas(str(TOP / "schemas"))


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


def test_walk_names_properties_of_all_kinds():
    named = list(walk.properties())
    assert len(named) == len(set(named))
    assert named.index("process") < named.index("process.user") < named.index("process.user.uid")
    assert {"mounts[].options", "linux.netDevices{}.name", "linux.sysctl", "hooks.poststop[].timeout"} < set(
        named
    )
    assert "linux.seccomp.syscalls[].args[].valueTwo" in named
    assert next(walk.properties("process")) == "terminal"

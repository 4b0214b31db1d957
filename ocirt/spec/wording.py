"""Every offence of a document against its schema, in words; only for documents that fail."""

from __future__ import annotations

from ocirt.spec import _compiled, jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

MOST = 20  # errors worth reading on one line


def errors(document: object, name: str) -> list[str]:
    """Texts such as "/process/user/uid: 'abc' is not of type 'integer'", in the schema's order.

    name is the schema's: "config", "process", "resources", "state" or "features".
    """
    try:
        found = list(validator(name).iter_errors(document))
    except ImportError as error:
        return [f"does not match its schema (the details need jsonschema: {error})"]
    texts = [f"{pointer(error.absolute_path)}: {_shorten(error.message)}" for error in found]
    if len(texts) > MOST:
        texts[MOST:] = [f"and {len(texts) - MOST} more"]
    return texts or ["does not match its schema"]


def validator(name: str) -> Any:
    """jsonschema's validator, with Go's and our idea of integers (1.0 is none) and of null (absent)."""
    import jsonschema

    plain = jsonschema.Draft202012Validator
    extended = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
        plain,
        {"properties": _properties, "required": _required},
        type_checker=plain.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int),
    )
    return extended(schema(name))


def schema(name: str) -> dict[str, Any]:
    """A schema that stands alone: with the definitions it refers to, without an address."""
    schemas = jsontext.loads(_compiled.SCHEMAS)
    whole = {key: value for key, value in schemas[name].items() if key not in ("$id", "$schema")}
    whole["$defs"] = schemas["config"]["$defs"]
    return whole


def pointer(path: Iterator[str | int]) -> str:
    """JSON pointer (RFC 6901); "/" for the whole document, which reads better than nothing."""
    return "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _shorten(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:140]} … {message[-150:]}"


def _properties(validator: Any, properties: dict[str, Any], instance: Any, _: Any) -> Iterator[Any]:
    if isinstance(instance, dict):
        for name, below in properties.items():
            if instance.get(name) is not None:
                yield from validator.descend(instance[name], below, path=name, schema_path=name)


def _required(validator: Any, required: list[str], instance: Any, _: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, dict):
        for name in required:
            if instance.get(name) is None:
                yield ValidationError(f"{name!r} is a required property")

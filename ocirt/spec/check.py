"""Is a document what runtime-spec allows? Fast when it is, talkative when it is not."""

from __future__ import annotations

from ocirt.errors import SpecError
from ocirt.spec import _compiled
from ocirt.spec.rules import PROCESS_RULES, RULES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from ocirt.spec.rules import Rule


def check(spec: dict[str, Any], name: str = "config.json") -> None:
    """Raise SpecError unless spec is a valid config.json for a Linux container.

    name is what the error calls the document. Members that are null count as absent, here and
    for everyone who reads the document afterwards: `spec.get(...) or default`.
    """
    check_shape(spec, "config", name)
    offences = list(_apply(RULES, spec))
    process = spec.get("process")
    if process:
        offences += _apply(PROCESS_RULES, process)
    _refuse(offences, name)


def check_process(process: dict[str, Any], name: str = "process.json") -> None:
    """Raise SpecError unless process is a valid `process` of config.json, as exec takes it."""
    check_shape(process, "process", name)
    _refuse(list(_apply(PROCESS_RULES, process)), name)


def check_shape(document: object, schema: str, name: str) -> None:
    """Raise SpecError with every offence against schemas/<schema>.schema.json, one line in all."""
    if not _compiled.check(document, _compiled.DOCUMENTS[schema]):
        from ocirt.spec import wording  # jsonschema takes 100 ms to import

        raise SpecError(name, _printable("; ".join(wording.errors(document, schema))))


def warnings(spec: dict[str, Any]) -> list[tuple[str, str]]:
    """(field, remark) for what is allowed and probably not meant; see `unusual`."""
    from ocirt.spec import unusual

    return unusual.warnings(spec)


def _apply(rules: Iterable[Rule], document: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
    for _, function, section in rules:
        for field, reason in function(document):
            yield field, reason, section


def _refuse(offences: list[tuple[str, str, str]], name: str) -> None:
    if len(offences) == 1:
        field, reason, section = offences[0]
        raise SpecError(_printable(field), _printable(reason), section)
    if offences:
        told = "; ".join(f"{field}: {reason}" for field, reason, _ in offences)
        raise SpecError(name, _printable(told))


def _printable(text: str) -> str:
    """On one line and without escape sequences, whatever the document's keys contain."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)

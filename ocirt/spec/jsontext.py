"""JSON text to Python objects and back, without the 6 ms that importing `json` costs.

The C scanner and encoder of `_json` do the work; a Python without `_json` uses `json`. Stricter
than `json`: a key twice in one object, NaN and infinities, and numbers beyond a double are
errors. (Other readers take the first or the last of two keys: what was checked by one would not
be what is applied by another.)
"""

from __future__ import annotations

from ocirt.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WHITESPACE = " \t\n\r"


class _Refused(ValueError):
    """Something the scanner let through; key is the repeated name, if that is what it was."""

    def __init__(self, reason: str, key: str | None = None) -> None:
        super().__init__(reason)
        self.key = key


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise _Refused(f"key {name!r} occurs twice in one object", name)
            seen.add(name)
    return members


def _constant(name: str) -> None:
    raise _Refused(f"{name} is not a JSON value")


def _float(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise _Refused(f"the number {text} is too large")
    return number


class _Scanning:
    """What the C scanner reads its settings from."""

    strict = True  # no control characters in strings
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str]


ESCAPED = [chr(0xDC00 + byte) for byte in range(0x80, 0x100)]  # bytes that were not UTF-8


def _accelerator() -> Any:
    """The module _json, or None. A shared object: not to be loaded before the first use."""
    try:
        import _json
    except ImportError:  # not CPython
        return None
    return _json


def loads(data: bytes | str, name: str = "") -> Any:
    """The value of a JSON text (UTF-8 if bytes). name is the document's name for errors.

    Raises SpecError(name, "line 3 column 7: ...").
    """
    try:
        text = data if isinstance(data, str) else _decoded(data, name)
        if text.startswith("\ufeff"):
            raise SpecError(name, "line 1 column 1: begins with a byte order mark, which JSON forbids")
        start = len(text) - len(text.lstrip(WHITESPACE))
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise SpecError(name, f"{_place(text, stop.value)}: a JSON value is missing") from None
    except RecursionError:
        raise SpecError(name, "is nested too deeply") from None
    except _Refused as refused:
        from ocirt.spec import jsonplace

        index = jsonplace.of_repeated_key(text) if refused.key is not None else jsonplace.of_constant(text)
        raise SpecError(name, f"{_place(text, index)}: {refused}") from None
    except ValueError as error:
        if hasattr(error, "pos"):
            reason = f"{error.msg[:1].lower()}{error.msg[1:]}"  # type: ignore[attr-defined]
            if reason == "expecting value":
                reason = "a JSON value is missing"
            raise SpecError(name, f"{_place(text, error.pos)}: {reason}") from None
        raise SpecError(name, f"has a number with too many digits ({error})") from None
    rest = text[end:].lstrip(WHITESPACE)
    if rest:
        raise SpecError(name, f"{_place(text, len(text) - len(rest))}: something follows the document's end")
    return value


def _decoded(data: bytes, name: str) -> str:
    """UTF-8 to text. A strict decoder would look for its error handler, which the launcher's core
    interpreter does not have; this one it knows by itself.
    """
    text = data.decode("utf-8", "surrogateescape")
    if not text.isascii():
        found = [index for index in map(text.find, ESCAPED) if index >= 0]
        if found:
            raise SpecError(name, f"{_place(text, min(found))}: is not UTF-8")
    return text


def _scan(text: str, start: int) -> tuple[Any, int]:
    _json = _accelerator()
    if _json is not None:
        scan = _json.make_scanner(_Scanning())
        try:
            scanned: tuple[Any, int] = scan(text, start)
        except SystemError:
            # Its error is json.decoder's, which it looks up among the loaded modules (before 3.12).
            import json.decoder

            scanned = scan(text, start)
        return scanned
    import json

    decoder = json.JSONDecoder(parse_float=_float, parse_constant=_constant, object_pairs_hook=_object)
    return decoder.raw_decode(text, start)


def _place(text: str, index: int | None) -> str:
    """Line and column of a character, both from 1."""
    if index is None:
        return "line unknown"
    return f"line {text.count(chr(10), 0, index) + 1} column {index - text.rfind(chr(10), 0, index)}"


def dumps(value: Any, indent: str = "") -> str:
    """JSON text, pure ASCII, without a newline at the end.

    indent "" gives one line without spaces; "  " or "\\t" gives Go's MarshalIndent layout. Raises
    TypeError for what JSON has no form for, SpecError when the nesting is too deep.
    """
    try:
        if indent:
            return "".join(_indented(value, "\n", indent))
        _json = _accelerator()
        if _json is None:
            import json

            return json.dumps(value, separators=(",", ":"), allow_nan=False)
        encode = _json.make_encoder(
            None, _not_json, _json.encode_basestring_ascii, None, ":", ",", False, False, False
        )
        return "".join(encode(value, 0))
    except RecursionError:
        raise SpecError("", "a document is nested too deeply") from None


def _not_json(value: object) -> Any:
    raise TypeError(f"{type(value).__name__} is not JSON")


def _indented(value: Any, margin: str, indent: str) -> list[str]:
    if isinstance(value, dict) and value:
        inside = margin + indent
        out = ["{"]
        for name, member in value.items():
            out += (inside, dumps(name), ": ", *_indented(member, inside, indent), ",")
    elif isinstance(value, list | tuple) and value:
        inside = margin + indent
        out = ["["]
        for element in value:
            out += (inside, *_indented(element, inside, indent), ",")
    else:
        return [dumps(value)]
    out[-1] = margin
    out.append("}" if isinstance(value, dict) else "]")
    return out

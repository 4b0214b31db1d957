"""Options as Go's flag package and urfave/cli read them, so that runc's callers need not change.

--name value, --name=value, -name value (one dash is enough), booleans also as --name=false; `--`
ends the options. A table maps a name to its kind, or a short name to the long one.
"""

from __future__ import annotations

from ocirt.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BOOL, TEXT, NUMBER, LIST = 1, 2, 3, 4  # LIST: may be given several times

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


def parse(
    words: list[str], table: dict[str, int | str], *, mixed: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """(values by long name with _ for -, other words).

    mixed: options may follow other words; else the first such word ends them. An option that was
    not given is absent. Raises UsageError.
    """
    values: dict[str, Any] = {}
    rest: list[str] = []
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if word == "--":
            rest += words[i:]
            break
        if word[:1] != "-" or word == "-":
            rest.append(word)
            if mixed:
                continue
            rest += words[i:]
            break
        given, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        names = [given]
        if not word.startswith("--") and given not in table and _all_switches(given, table):
            names = list(given)  # -it
        for name in names:
            entry = table.get(name)
            if type(entry) is str:
                name, entry = entry, table[entry]
            if entry is None:
                raise UsageError(f"flag provided but not defined: -{given}")
            key = name.replace("-", "_")
            if entry == BOOL:
                values[key] = _boolean(given, value) if equals else True
                continue
            if not equals:
                if i == len(words):
                    raise UsageError(f"flag needs an argument: -{given}")
                value = words[i]
                i += 1
            if entry == LIST:
                values.setdefault(key, []).append(value)
            else:
                values[key] = _number(given, value) if entry == NUMBER else value
    return values, rest


def _all_switches(letters: str, table: dict[str, int | str]) -> bool:
    for letter in letters:
        name = table.get(letter)
        if table.get(name, name) != BOOL if type(name) is str else name != BOOL:
            return False
    return bool(letters)


def _boolean(name: str, value: str) -> bool:
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')


def _number(name: str, value: str) -> int:
    """Decimal digits, below 2**31; int() alone takes signs, blanks and underscores."""
    if value.isascii() and value.isdigit() and len(value) < 11 and int(value) < 1 << 31:
        return int(value)
    raise UsageError(f'invalid value "{value}" for flag -{name}: parse error')


def expect(verb: str, words: list[str], least: int, most: int | None = None) -> None:
    """Raise UsageError unless there are least to most words (most None: any number)."""
    if least == most and len(words) != least:
        raise UsageError(f'"{verb}" requires exactly {least} argument(s)')
    if len(words) < least:
        raise UsageError(f'"{verb}" requires a minimum of {least} argument(s)')
    if most is not None and len(words) > most:
        raise UsageError(f'"{verb}" requires a maximum of {most} argument(s)')

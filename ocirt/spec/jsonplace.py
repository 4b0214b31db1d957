"""Where in a JSON text something is that the C scanner accepts and we do not; for errors only."""

from __future__ import annotations

import re

# String, bracket, comma or the start of anything else; the text is known to be well formed.
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')


def of_repeated_key(text: str) -> int | None:
    """Index of the first key that its object already has."""
    from json import loads

    open_keys: list[set[str] | None] = []
    previous = ""
    for match in TOKEN.finditer(text):
        token = match.group()
        if token == "{":
            open_keys.append(set())
        elif token == "[":
            open_keys.append(None)
        elif token in ("}", "]"):
            open_keys.pop()
        elif token.startswith('"') and previous in ("{", ",") and open_keys:
            keys = open_keys[-1]
            if keys is not None:
                key = loads(token)
                if key in keys:
                    return match.start()
                keys.add(key)
        previous = token
    return None


def of_constant(text: str) -> int | None:
    """Index of the first NaN, Infinity or number that no double holds."""
    for match in TOKEN.finditer(text):
        token = match.group()
        if token in ("NaN", "Infinity", "-Infinity"):
            return match.start()
        if token[:1] in "-0123456789" and any(letter in token for letter in ".eE"):
            number = float(token)
            if number - number != 0:
                return match.start()
    return None

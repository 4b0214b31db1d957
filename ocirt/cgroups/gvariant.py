"""GVariant's text format, as far as values of systemd's properties need it: booleans, numbers,
strings, object paths, byte strings, arrays, tuples, and types put before them.

Grammar: GLib's "GVariant Text Format". A value becomes a pair (D-Bus signature, value).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u",
    "int64": "x", "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
RANGES = {
    "y": (0, 255), "n": (-1 << 15, (1 << 15) - 1), "q": (0, (1 << 16) - 1), "i": (-1 << 31, (1 << 31) - 1),
    "u": (0, (1 << 32) - 1), "x": (-1 << 63, (1 << 63) - 1), "t": (0, (1 << 64) - 1),
}  # fmt: skip
ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
MAX_DEPTH = 16


def parse(text: str) -> tuple[str, Any]:
    """(D-Bus signature, value). Raises ValueError."""
    reader = _Reader(text)
    result = reader.value("", 0)
    reader.skip_space()
    if reader.at != len(text):
        raise ValueError(f"what is {text[reader.at :]!r} behind the value?")
    return result


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def skip_space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def peek(self) -> str:
        self.skip_space()
        return self.text[self.at : self.at + 1]

    def take(self, expected: str) -> bool:
        if self.peek() == expected:
            self.at += 1
            return True
        return False

    def word(self, letters: str) -> str:
        """Letters, digits and what is in letters."""
        start = self.at
        while self.at < len(self.text) and (self.text[self.at].isalnum() or self.text[self.at] in letters):
            self.at += 1
        return self.text[start : self.at]

    def value(self, wanted: str, depth: int) -> tuple[str, Any]:
        """wanted: the signature that the value must have; "" leaves it to the value."""
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        first = self.peek()
        if first == "@":
            self.at += 1
            return self._checked(wanted, self.value(self.word("(){}"), depth + 1))
        if first == "[":
            return self.array(wanted, depth)
        if first == "(":
            return self.tuple(wanted, depth)
        if first in ("'", '"') and first:
            return self._string(wanted, self.quoted(first))
        if self.text[self.at : self.at + 2] in ("b'", 'b"'):
            self.at += 2
            data = self.quoted(self.text[self.at - 1], opened=True)
            return self._checked(wanted, ("ay", [*data.encode("latin-1"), 0]))
        word = self.word("+-._")
        if word in ("true", "false"):
            return self._checked(wanted, ("b", word == "true"))
        if word in KEYWORDS:
            return self._checked(wanted, self.value(KEYWORDS[word], depth + 1))
        return self.number(wanted, word)

    def _checked(self, wanted: str, found: tuple[str, Any]) -> tuple[str, Any]:
        if wanted and found[0] != wanted:
            raise ValueError(f"a value of type {found[0]!r}, where {wanted!r} was announced")
        return found

    def _string(self, wanted: str, text: str) -> tuple[str, Any]:
        if wanted not in ("", "s", "o", "g"):
            raise ValueError(f"a string, where {wanted!r} was announced")
        if "\0" in text:
            raise ValueError("a string cannot hold a NUL")
        return wanted or "s", text

    def number(self, wanted: str, word: str) -> tuple[str, Any]:
        """Without a type a number is an int32, or a double when it is written as one."""
        try:
            if wanted == "d" or (not wanted and not _is_integer(word)):
                return "d", float(word)
            digits = word.lstrip("+-")
            octal = len(digits) > 1 and digits[0] == "0" and digits.isdigit()
            value = int(word, 8 if octal else 0)
        except ValueError:
            raise ValueError(f"{word or self.peek()!r} is not a value") from None
        kind = wanted or "i"
        if kind not in RANGES:
            raise ValueError(f"a number, where {wanted!r} was announced")
        low, high = RANGES[kind]
        if not low <= value <= high:
            raise ValueError(f"{word} does not fit into type {kind!r}: put a larger type before it")
        return kind, value

    def quoted(self, quote: str, opened: bool = False) -> str:
        if not opened:
            self.at += 1
        parts: list[str] = []
        while True:
            letter = self.text[self.at : self.at + 1]
            self.at += 1
            if not letter:
                raise ValueError("a string has no end")
            if letter == quote:
                return "".join(parts)
            if letter != "\\":
                parts.append(letter)
                continue
            letter = self.text[self.at : self.at + 1]
            self.at += 1
            digits = {"u": 4, "U": 8, "x": 2}.get(letter)
            if digits:
                parts.append(chr(int(self.text[self.at : self.at + digits], 16)))
                self.at += digits
            elif letter in "01234567" and letter:
                start = self.at - 1
                while self.at < start + 3 and self.text[self.at : self.at + 1] in tuple("01234567"):
                    self.at += 1
                parts.append(chr(int(self.text[start : self.at], 8)))
            else:
                parts.append(ESCAPES.get(letter, letter))

    def array(self, wanted: str, depth: int) -> tuple[str, Any]:
        if wanted and wanted[0] != "a":
            raise ValueError(f"an array, where {wanted!r} was announced")
        kind = wanted[1:]
        self.at += 1
        items: list[Any] = []
        while not self.take("]"):
            if items and not self.take(","):
                raise ValueError("an array has no end")
            # Like GLib, the first element decides; it may have to say its type (uint64 1).
            kind, item = self.value(kind, depth + 1)
            items.append(item)
        if not kind:
            raise ValueError("an empty array needs a type: @as []")
        return f"a{kind}", items

    def tuple(self, wanted: str, depth: int) -> tuple[str, Any]:
        from ocirt.cgroups.dbus import type_end

        if wanted and wanted[0] != "(":
            raise ValueError(f"a tuple, where {wanted!r} was announced")
        self.at += 1
        kinds: list[str] = []
        items: list[Any] = []
        position = 1
        while not self.take(")"):
            if items and not self.take(","):
                raise ValueError("a tuple has no end")
            if items and self.take(")"):  # (1,) is a tuple of one
                break
            part = ""
            if wanted:
                end = type_end(wanted, position)
                part, position = wanted[position:end], end
            kind, item = self.value(part, depth + 1)
            kinds.append(kind)
            items.append(item)
        if not items:
            raise ValueError("D-Bus has no empty tuple")
        return self._checked(wanted, (f"({''.join(kinds)})", tuple(items)))


def _is_integer(word: str) -> bool:
    digits = word.lstrip("+-").lower()
    return digits.startswith("0x") or not set(digits) & set(".einf")

"""--format: the part of Go's text/template that docker's users write.

    {{.a.b}} {{$}} {{$x}} {{"text"}} {{`text`}} {{3}} {{true}} {{(pipeline).a}}
    {{pipeline | function argument}}  {{$x := pipeline}}  {{- trimmed -}}  {{/* comment */}}
    {{if pipeline}} {{else if pipeline}} {{else}} {{end}}  {{with pipeline}} {{range $key, $x := pipeline}}

Functions are those of FUNCTIONS. Values are those of JSON and print as Go's do: lists as [a b], maps
as map[name:value], null as <no value>. Other than in Go, a name that a map does not have is an error
(docker's choice too), while index gives null for one. Actions of Go that are not in this list
(block, break, continue, define, template) are errors, which name the place.
"""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from oci_image.cli.common import print_table, shown
from oci_image.errors import ImageError
from ocirt.spec.jsontext import dumps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TEXT = r'"(?:[^"\\\n]|\\.)*" | `[^`]*`'
_ACTION = re.compile(rf"""\{{\{{ (-\s)? ((?: {_TEXT} | [^"`] )*?) (\s-)? \}}\}}""", re.VERBOSE)
_COMMENT = re.compile(r"/\*.*\*/", re.DOTALL)
_TOKEN = re.compile(
    rf"""(?P<space>\s+)
      | (?P<text>{_TEXT})
      | (?P<number>-?[0-9]+(?![A-Za-z0-9_.]))
      | (?P<member>\.[A-Za-z_][A-Za-z0-9_]*)
      | (?P<variable>\$[A-Za-z0-9_]*)
      | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<mark>:=|[|().,])""",
    re.VERBOSE,
)
_VERB = re.compile(r"%(-?)([0-9]*)(.?)", re.DOTALL)
_ESCAPES = re.compile(r"\\(?:([abfnrtv\\'\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|_")
TABLE = "table "
_CONSTANTS = {"true": True, "false": False, "nil": None}


class _Mistake(Exception):
    """What a function has against its arguments."""


class _Token(NamedTuple):
    kind: str
    text: str
    at: int  # character of the template, from 0


def fill(text: str, document: Any) -> str:
    """text with its actions carried out on document, the dot. Raises ImageError naming the character."""
    return Template(text).fill(document)


class Template:
    """A template, parsed once; fill() it for each document. escapes: in its text, \\t and \\n are such."""

    def __init__(self, text: str, escapes: bool = False) -> None:
        self._nodes = _Parser(text, escapes).parse()

    def fill(self, document: Any) -> str:
        return "".join(_run(self._nodes, document, {"$": document}))


def print_rows(text: str, rows: list[dict[str, Any]]) -> None:
    """The template for each row. As docker does: \\t and \\n stand for a tab and a line feed, "json" is each
    row as JSON, and after "table " tabs make columns, named in a first line by the members they show.
    """
    if text == "json":
        sys.stdout.writelines(f"{dumps(row)}\n" for row in rows)
        return
    template = Template(text, escapes=True)
    lines = [template.fill(row) for row in rows]
    if text.startswith(TABLE):
        actions = ["".join(re.findall(r"\{\{.*?\}\}", cell)) for cell in re.split(r"\\t|\t", text)]
        members = [re.findall(r"\.([A-Za-z_]\w*)", cell) for cell in actions]
        header = [_CAMEL.sub(" ", names[-1]).upper() if names else "" for names in members]
        _print_columns(header, [line.removeprefix(TABLE).split("\t") for line in lines])
    else:
        sys.stdout.writelines(f"{shown(line)}\n" for line in lines)


def _print_columns(header: list[str], lines: list[list[str]]) -> None:
    """A value may hold tabs: all rows are made as long as the longest."""
    most = max(map(len, [header, *lines]))
    first, *rest = [[*line, *[""] * (most - len(line))] for line in [header, *lines]]
    print_table(first, rest)


def _fail(at: int, reason: str) -> NoReturn:
    raise ImageError("--format", f"character {at + 1}: {reason}")


# The tree: what a template is made of. Everything knows the character where it stands.


class _Text(NamedTuple):
    text: str


class _Print(NamedTuple):
    pipe: _Pipe


class _Branch(NamedTuple):
    """if, with and range."""

    kind: str
    pipe: _Pipe
    nodes: list[_Node]
    otherwise: list[_Node]


class _Pipe(NamedTuple):
    """commands, each of which gets what the one before it gave as its last argument."""

    variables: list[str]  # that it declares
    commands: list[_Command]


class _Command(NamedTuple):
    at: int
    function: str  # "": the only operand is the value
    operands: list[_Operand]


class _Operand(NamedTuple):
    """kind: "value", "variable" (with "" the dot) or "pipe"; members are taken of it one after the other."""

    at: int
    kind: str
    value: Any
    members: list[_Token]


_Node = _Text | _Print | _Branch


class _Parser:
    def __init__(self, text: str, escapes: bool) -> None:
        self._text = text
        self._escapes = escapes
        self._pieces = self._split()
        self._tokens: list[_Token] = []
        self._next = 0
        self._end = 0  # of the action that is being parsed
        self._known = {"$", ""}

    def _split(self) -> Iterator[tuple[str, int, int]]:
        """(text between, beginning and end of the action that follows); at the end, -1 and -1."""
        at = 0
        trim = False
        while match := _ACTION.search(self._text, at):
            between = self._text[at : match.start()]
            if "}}" in between:
                _fail(at + between.index("}}"), "}} ends no action")
            between = between.lstrip() if trim else between
            yield between.rstrip() if match[1] else between, match.start(2), match.end(2)
            at, trim = match.end(), bool(match[3])
        rest = self._text[at:]
        if "{{" in rest:
            _fail(at + rest.index("{{"), "the action is not closed by }}")
        yield rest.lstrip() if trim else rest, -1, -1

    def parse(self) -> list[_Node]:
        nodes, ending = self._nodes()
        if ending:
            _fail(ending.at, f"there is nothing that {ending.text} could belong to")
        return nodes

    def _nodes(self) -> tuple[list[_Node], _Token | None]:
        """Nodes up to an else or end, whose words follow; None: up to the end of the template."""
        nodes: list[_Node] = []
        for text, begin, end in self._pieces:
            if text:
                escaped = text.replace("\\t", "\t").replace("\\n", "\n")
                nodes.append(_Text(escaped if self._escapes else text))
            if begin < 0:
                return nodes, None
            if _COMMENT.fullmatch(self._text, begin, end):
                continue
            self._read(begin, end)
            first = self._peek()
            if not first:
                _fail(begin, "the action is empty")
            if first.text in ("else", "end"):
                return nodes, self._take()
            if first.text in ("if", "with", "range"):
                nodes.append(self._branch(self._take()))
            else:
                nodes.append(_Print(self._pipe()))
                self._done()
        raise AssertionError("the last piece has no action")

    def _read(self, begin: int, end: int) -> None:
        """The tokens of an action."""
        self._tokens, self._next, self._end = [], 0, end
        while begin < end:
            match = _TOKEN.match(self._text, begin, end)
            if not match:
                _fail(begin, f"{self._text[begin:end].split()[0]!r} is not understood")
            self._tokens.append(_Token(str(match.lastgroup), match[0], begin))
            begin = match.end()
        if self._tokens and self._tokens[-1].kind == "space":
            del self._tokens[-1]
        if self._tokens and self._tokens[0].kind == "space":
            del self._tokens[0]

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> _Token:
        token = self._peek()
        if not token:
            _fail(self._end, "something is missing")
        self._next += 1
        return token

    def _skip_space(self) -> None:
        token = self._peek()
        if token and token.kind == "space":
            self._next += 1

    def _is(self, mark: str) -> bool:
        """Take the mark if it comes next, behind space or not."""
        before = self._next
        self._skip_space()
        token = self._peek()
        if token and token.kind == "mark" and token.text == mark:
            self._next += 1
            return True
        self._next = before
        return False

    def _done(self) -> None:
        self._skip_space()
        if token := self._peek():
            _fail(token.at, f"{token.text!r} is not expected here")

    def _branch(self, word: _Token) -> _Branch:
        outside = set(self._known)
        pipe = self._pipe(several=word.text == "range")
        self._done()
        inside = set(self._known)
        nodes, ending = self._nodes()
        self._known = inside
        otherwise: list[_Node] = []
        if ending and ending.text == "else":
            self._skip_space()
            following = self._peek()
            if following and following.text in ("if", "with"):
                nested = self._branch(self._take())  # one end closes both
                self._known = outside
                return _Branch(word.text, pipe, nodes, [nested])
            self._done()
            otherwise, ending = self._nodes()
        if not ending or ending.text != "end":
            _fail(word.at, f"{word.text} has no end")
        self._done()
        self._known = outside
        return _Branch(word.text, pipe, nodes, otherwise)

    def _pipe(self, several: bool = False) -> _Pipe:
        variables = self._variables(several)
        commands = [self._command()]
        while self._is("|"):
            commands.append(self._command())
            if not commands[-1].function:
                _fail(commands[-1].at, "only a function takes what comes through |")
        self._known.update(variables)
        return _Pipe(variables, commands)

    def _variables(self, several: bool) -> list[str]:
        """Those that a pipeline declares: `$x :=`, in a range also `$key, $value :=`."""
        before = self._next
        names: list[_Token] = []
        while True:
            self._skip_space()
            token = self._peek()
            if not token or token.kind != "variable":
                break
            names.append(self._take())
            if not self._is(","):
                break
        if not names or not self._is(":="):
            self._next = before
            return []
        if len(names) > (2 if several else 1):
            _fail(names[-1].at, "there is one variable too many")
        return [name.text for name in names]

    def _command(self) -> _Command:
        self._skip_space()
        first = self._peek()
        if not first or first.text in ("|", ")"):
            _fail(first.at if first else self._end, "a value or function is missing")
        function = ""
        operands: list[_Operand] = []
        if first.kind == "word" and first.text not in _CONSTANTS:
            function = self._take().text
            if function not in FUNCTIONS:
                _fail(first.at, f"{function} is not supported; functions are {', '.join(sorted(FUNCTIONS))}")
        while True:
            self._skip_space()
            token = self._peek()
            if not token or (token.kind == "mark" and token.text in "|)"):
                break
            if operands and not function:
                _fail(token.at, f"{self._text[first.at : token.at].strip()} is no function")
            operands.append(self._operand())
        return _Command(first.at, function, operands)

    def _operand(self) -> _Operand:
        token = self._take()
        kind = "value"
        value: Any = None
        if token.kind == "text":
            value = token.text[1:-1] if token.text[0] == "`" else _unquoted(token)
        elif token.kind == "number":
            value = int(token.text)
        elif token.kind == "word" and token.text in _CONSTANTS:
            value = _CONSTANTS[token.text]
        elif token.kind == "word" and token.text in FUNCTIONS:
            _fail(token.at, f"{token.text} needs parentheses here")
        elif token.kind == "variable":
            if token.text not in self._known:
                _fail(token.at, f"variable {token.text} is not known")
            kind, value = "variable", token.text
        elif token.kind == "member":
            kind, value = "variable", ""
            self._next -= 1  # it is taken of the dot
        elif token.text == ".":
            kind, value = "variable", ""
        elif token.text == "(":
            kind, value = "pipe", self._pipe()
            if not self._is(")"):
                _fail(token.at, "( is not closed")
        else:
            _fail(token.at, f"{token.text!r} is not expected here")
        members = []
        while (following := self._peek()) and following.kind == "member":
            members.append(self._take())
        if following and following.kind not in ("space", "mark"):
            _fail(following.at, "a space is missing")
        return _Operand(token.at, kind, value, members)


def _unquoted(token: _Token) -> str:
    def letter(match: re.Match[str]) -> str:
        if match[1]:
            return _LETTERS.get(match[1], match[1])
        number = int(match[2] or match[3] or match[4], 16)
        if number > 0x10FFFF:
            _fail(token.at, f"{match[0]} is no character")
        return chr(number)

    plain, rest = _ESCAPES.subn(letter, token.text[1:-1])[0], _ESCAPES.sub("", token.text[1:-1])
    if "\\" in rest:
        _fail(token.at, f"{token.text} has an escape that is not known")
    return plain


# Carrying it out. Variables are names → values, with "$" the document; a block has a copy of its own.


def _run(nodes: list[_Node], dot: Any, variables: dict[str, Any]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Text):
            yield node.text
        elif isinstance(node, _Print):
            value = _value(node.pipe, dot, variables)
            if node.pipe.variables:
                variables[node.pipe.variables[0]] = value
            else:
                yield _text(value)
        elif node.kind == "range":
            yield from _run_range(node, dot, variables)
        else:
            value = _value(node.pipe, dot, variables)
            inner = {**variables, **dict.fromkeys(node.pipe.variables, value)}
            if value:
                yield from _run(node.nodes, value if node.kind == "with" else dot, inner)
            else:
                yield from _run(node.otherwise, dot, inner)


def _run_range(node: _Branch, dot: Any, variables: dict[str, Any]) -> Iterator[str]:
    value = _value(node.pipe, dot, variables)
    if not value:
        yield from _run(node.otherwise, dot, {**variables, **dict.fromkeys(node.pipe.variables)})
        return
    if isinstance(value, dict):
        items: Iterable[tuple[Any, Any]] = sorted(value.items())
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        _fail(node.pipe.commands[0].at, f"range needs a list or map, not {_kind(value)}")
    names = node.pipe.variables
    for key, item in items:
        told = dict(zip(names, (key, item) if len(names) == 2 else (item,), strict=False))
        yield from _run(node.nodes, item, {**variables, **told})


def _value(pipe: _Pipe, dot: Any, variables: dict[str, Any]) -> Any:
    value: Any = None
    for number, command in enumerate(pipe.commands):
        arguments = [_operand(one, dot, variables) for one in command.operands]
        if number:
            arguments.append(value)
        if not command.function:
            (value,) = arguments
            continue
        function, least, most = FUNCTIONS[command.function]
        if not least <= len(arguments) <= most:
            _fail(command.at, f"{command.function} takes {_count(least, most)}, not {len(arguments)}")
        try:
            value = function(*arguments)
        except _Mistake as mistake:
            _fail(command.at, f"{command.function}: {mistake}")
    return value


def _operand(operand: _Operand, dot: Any, variables: dict[str, Any]) -> Any:
    if operand.kind == "pipe":
        value = _value(operand.value, dot, variables)
    elif operand.kind == "variable":
        value = variables[operand.value] if operand.value else dot
    else:
        value = operand.value
    for member in operand.members:
        name = member.text[1:]
        if not isinstance(value, dict):
            _fail(member.at, f"there is no {name} in {_kind(value)}")
        if name not in value:
            known = f"; there is {', '.join(value)}" if value else ""
            _fail(member.at, f"there is no {name}{known}")
        value = value[name]
    return value


def _count(least: int, most: int) -> str:
    if most == _ANY:
        return f"at least {least} arguments"
    return f"{least} arguments" if least == most else f"{least} to {most} arguments"


def _kind(value: Any) -> str:
    kinds = {str: "a text", bool: "a truth value", int: "a number", list: "a list", dict: "a map"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _text(value: Any) -> str:
    """As fmt.Print of Go writes it."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(map(_text, value))}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{name}:{_text(one)}' for name, one in sorted(value.items()))}]"
    return str(value)


# Functions


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _Mistake(f"{_text(value)} is {_kind(value)}, not a text")
    return value


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Mistake(f"{_text(value)} is {_kind(value)}, not a number")
    return value


def _join(values: Any, separator: Any) -> str:
    if not isinstance(values, list):
        raise _Mistake(f"{_text(values)} is {_kind(values)}, not a list")
    return _string(separator).join(map(_text, values))


def _index(value: Any, *keys: Any) -> Any:
    """null for a name that a map does not have, as of Go's maps of interfaces."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(_string(key))
        elif isinstance(value, list):
            if not 0 <= _number(key) < len(value):
                raise _Mistake(f"{key} is out of range: the list has {len(value)}")
            value = value[key]
        else:
            raise _Mistake(f"{_kind(value)} has no elements")
    return value


def _len(value: Any) -> int:
    if not isinstance(value, str | list | dict):
        raise _Mistake(f"{_kind(value)} has no length")
    return len(value.encode()) if isinstance(value, str) else len(value)


def _title(value: Any) -> str:
    return re.sub(r"(?<!\w)\w", lambda match: match[0].upper(), _string(value))


def _split(value: Any, separator: Any) -> list[str]:
    text = _string(value)
    return text.split(separator) if _string(separator) else list(text)


def _pad(value: Any, before: Any, after: Any) -> str:
    text = _string(value)
    return " " * _number(before) + text + " " * _number(after) if text else ""


def _print(*values: Any) -> str:
    """With a space between two values neither of which is a text."""
    out = [_text(value) for value in values[:1]]
    for one, other in pairwise(values):
        out.append(_text(other) if isinstance(one, str) or isinstance(other, str) else f" {_text(other)}")
    return "".join(out)


def _println(*values: Any) -> str:
    return " ".join(map(_text, values)) + "\n"


def _printf(form: Any, *values: Any) -> str:
    left = list(values)

    def verb(match: re.Match[str]) -> str:
        minus, width, letter = match.groups()
        if letter == "%":
            return "%"
        if letter not in _VERBS:
            raise _Mistake(f"{match[0]} is not supported: %{', %'.join(_VERBS)} are")
        if not left:
            raise _Mistake(f"there is no value for {match[0]}")
        text = _VERBS[letter](left.pop(0))
        fill = "0" if width.startswith("0") and letter in "dx" else " "
        return text.ljust(int(width or 0)) if minus else text.rjust(int(width or 0), fill)

    text = _VERB.sub(verb, _string(form))
    if left:
        raise _Mistake(f"there is no % for {_text(left[0])}")
    return text


_VERBS: dict[str, Callable[[Any], str]] = {
    "s": _text,
    "v": _text,
    "q": lambda value: dumps(_text(value)),
    "d": lambda value: str(_number(value)),
    "x": lambda value: _text(value).encode().hex() if isinstance(value, str) else f"{_number(value):x}",
    "t": _text,
}


def _compared(one: Any, other: Any) -> bool:
    """Is one less than other? Both must be texts or both numbers."""
    if isinstance(one, str) and isinstance(other, str):
        return one < other
    return _number(one) < _number(other)


def _equal(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)


_ANY = 1 << 16
# Name → (function, fewest and most arguments).
FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "and": (lambda *values: next((one for one in values if not one), values[-1]), 1, _ANY),
    "eq": (lambda one, *others: any(_equal(one, other) for other in others), 2, _ANY),
    "ge": (lambda one, other: not _compared(one, other), 2, 2),
    "gt": (lambda one, other: _compared(other, one), 2, 2),
    "index": (_index, 1, _ANY),
    "join": (_join, 2, 2),
    "json": (dumps, 1, 1),
    "le": (lambda one, other: not _compared(other, one), 2, 2),
    "len": (_len, 1, 1),
    "lower": (lambda value: _string(value).lower(), 1, 1),
    "lt": (_compared, 2, 2),
    "ne": (lambda one, other: not _equal(one, other), 2, 2),
    "not": (lambda value: not value, 1, 1),
    "or": (lambda *values: next((one for one in values if one), values[-1]), 1, _ANY),
    "pad": (_pad, 3, 3),
    "print": (_print, 0, _ANY),
    "printf": (_printf, 1, _ANY),
    "println": (_println, 0, _ANY),
    "split": (_split, 2, 2),
    "title": (_title, 1, 1),
    "truncate": (lambda text, length: _string(text)[: max(0, _number(length))], 2, 2),
    "upper": (lambda value: _string(value).upper(), 1, 1),
}

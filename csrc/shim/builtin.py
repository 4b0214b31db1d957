"""Writes what builtin.c includes: the functions of shim.h for Python, and the constants.

Usage: builtin.py OUTPUT.h.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from csrc.shim.build import constants, declarations

INTEGERS = {"int", "long", "unsigned", "unsigned long", "unsigned short", "size_t", "uint32_t", "uint64_t"}
SIGNED = {"int", "long"}
FORMATS = {"int": "i", "uint64_t": "Q"}  # of the struct module


class Argument(NamedTuple):
    type: str
    is_pointer: bool
    is_const: bool


def arguments(text: str) -> list[Argument]:
    if text.strip() == "void":
        return []
    found = []
    for part in text.split(","):
        declared = part.replace("const ", "").strip()
        kind = re.sub(r"\s*\**\w+(\[\d*\])?$", "", declared)
        is_pointer = "*" in declared or "[" in declared
        assert is_pointer or kind in INTEGERS, part
        found.append(Argument(kind, is_pointer, "const " in part))
    return found


def functions() -> list[tuple[str, str, list[Argument]]]:
    text = " ".join(declarations().split())
    found = re.findall(r"\b(long|void) (oc_\w+)\(([^)]*)\);", text)
    return [(result, name, arguments(inside)) for result, name, inside in found]


def structs() -> dict[str, list[tuple[str, str]]]:
    """struct: (member, format of the struct module) in order."""
    text = " ".join(declarations().split())
    found: dict[str, list[tuple[str, str]]] = {}
    for name, body in re.findall(r"struct (\w+) \{([^}]*)\};", text):
        members = found.setdefault(f"struct {name} *", [])
        for line in filter(str.strip, body.split(";")):
            member, count = re.findall(r"(\w+)(?:\[(\d+)\])?$", line.strip())[0]
            kind = "P" if "*" in line else FORMATS[line.replace("const", "").split()[0]]
            members.append((member, count + kind))
    return found


def wrapper(result: str, name: str, args: list[Argument]) -> str:
    held = [i for i, argument in enumerate(args) if argument.is_pointer]
    lines = [f"static PyObject *call_{name}(PyObject *self, PyObject *const *args, Py_ssize_t count)", "{"]
    lines += ["\t(void)self;"]
    if not args:
        lines += ["\t(void)args;"]
    lines += [f"\tif (count != {len(args)})", f'\t\treturn wrong_count("{name}", {len(args)}, count);']
    passed = []
    for i, argument in enumerate(args):
        if argument.is_pointer:
            lines.append(f"\tstruct memory m{i} = {{.at = NULL}};")
            passed.append(f"m{i}.at")
        else:
            kind = "long" if argument.type in SIGNED else "unsigned long"
            lines.append(f"\t{kind} a{i};")
            passed.append(f"({argument.type})a{i}")
    lines += ["\tPyObject *value = NULL;"]
    for i, argument in enumerate(args):
        if argument.is_pointer:
            test = f"to_memory(args[{i}], {int(not argument.is_const)}, &m{i})"
        elif argument.type in SIGNED:
            least, most = ("INT_MIN", "INT_MAX") if argument.type == "int" else ("LONG_MIN", "LONG_MAX")
            test = f"to_signed(args[{i}], {least}, {most}, &a{i})"
        else:
            test = f"to_unsigned(args[{i}], ({argument.type})-1, &a{i})"
        lines += [f"\tif ({test} < 0)", "\t\tgoto out;"]
    call = f"{name}({', '.join(passed)})"
    if result == "void":
        lines += [f"\t{call};", "\tvalue = Py_NewRef(Py_None);"]
    else:
        lines += [
            "\tlong got;",
            "\tPy_BEGIN_ALLOW_THREADS",
            f"\tgot = {call};",
            "\tPy_END_ALLOW_THREADS",
            "\tvalue = PyLong_FromLong(got);",
        ]
    if args:
        lines += ["out:"]
    lines += [f"\tPyBuffer_Release(&m{i}.view);" for i in held]
    lines += ["\treturn value;", "}"]
    return "\n".join(lines)


def main() -> None:
    calls = functions()
    parts = ["/* Made by builtin.py. */", *(wrapper(*call) for call in calls)]
    rows = [f'\t{{"{name}", (PyCFunction)(void *)call_{name}, METH_FASTCALL, NULL}},' for _, name, _ in calls]
    parts += ["static PyMethodDef methods[] = {", *rows, '\t{"address", address, METH_O, NULL},']
    parts += ["\t{NULL, NULL, 0, NULL},", "};"]
    parts += [
        "static const struct {",
        "\tconst char *name;",
        "\tunsigned long value;",
        "\tint is_signed; /* zero or less; an unsigned one is never less */",
    ]
    parts += ["} numbers[] = {"]
    parts += [f'\t{{"{name}", (unsigned long){name}, {name} <= 0}},' for name in constants()]
    parts += ["};"]
    tables = []
    for name, members in structs().items():
        inside = "".join("(ss)" for _ in members)
        words = "".join(f', "{member}", "{kind}"' for member, kind in members)
        tables.append((f"s[{inside}]", f'"{name}"{words}'))
    form = "{" + "".join(form for form, _ in tables) + "}"
    parts += [f'#define STRUCTS "{form}", {", ".join(words for _, words in tables)}', ""]
    Path(sys.argv[1]).write_text("\n".join(parts))


if __name__ == "__main__":
    main()

"""Prepares libpython*.a for the launcher: without what only takes time at every start.

Usage: static_python.py libpython.a OUTPUT.a OUTPUT.c. OUTPUT.c replaces what was taken out:

* config.o: the table of builtin modules, now with ocirt._shim, and without pyexpat, _elementtree
  and zlib, so that libexpat and libz are not loaded (xml and compressed files are not used);
* deepfreeze.o, frozen.o (CPython 3.11 and 3.12): 0.9 MB of frozen standard library as writable
  objects, which the start touches, page by page. The modules that the start needs are marshalled
  instead; the rest comes from its files.
"""

from __future__ import annotations

import marshal
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

UNWANTED = {"pyexpat", "_elementtree", "zlib", "xxsubtype"}
OURS = {"ocirt._shim"}
SPECIAL = {
    "_warnings": "_PyWarnings_Init",
    "marshal": "PyMarshal_Init",
    "builtins": None,
    "sys": None,
    "ocirt._shim": "PyInit_ocirt_shim",
}

# module: the name it has in the standard library
BOOTSTRAP = {
    "_frozen_importlib": "importlib._bootstrap",
    "_frozen_importlib_external": "importlib._bootstrap_external",
    "zipimport": "zipimport",
}
STDLIB = ("abc", "codecs", "io")
FROZEN_SYMBOLS = {
    "PyImport_FrozenModules",
    "_PyImport_FrozenAliases",
    "_PyImport_FrozenBootstrap",
    "_PyImport_FrozenStdlib",
    "_PyImport_FrozenTest",
}


def defined_symbols(library: str) -> dict[str, set[str]]:
    """member: the symbols that it defines for others."""
    text = subprocess.run(["nm", "-A", library], capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if words[-2] in "TDBRVW":
            found.setdefault(words[0].split(":")[1], set()).add(words[-1])
    return found


def can_replace_frozen(symbols: dict[str, set[str]]) -> bool:
    """Whether the two members are what this file knows how to replace."""
    deep = symbols.get("deepfreeze.o", set())
    rest = {name for name in deep if not re.fullmatch(r"_Py_get_\w+_toplevel", name)}
    return symbols.get("frozen.o") == FROZEN_SYMBOLS and rest == {
        "_Py_Deepfreeze_Init",
        "_Py_Deepfreeze_Fini",
    }


def builtin_table(names: list[str]) -> list[str]:
    rows, declarations = [], []
    for name in names:
        function = SPECIAL.get(name, f"PyInit_{name}")
        if function:
            declarations.append(f"extern PyObject *{function}(void);")
        rows.append(f'\t{{"{name}", {function or "NULL"}}},')
    return [*declarations, "struct _inittab _PyImport_Inittab[] = {", *rows, "\t{NULL, NULL},", "};"]


def frozen_row(lines: list[str], name: str, standard_name: str) -> str:
    """Adds the marshalled code to lines; the row of the table. Docstrings are dropped."""
    path = Path(sysconfig.get_path("stdlib")) / (standard_name.replace(".", "/") + ".py")
    source = path.read_text(encoding="utf-8")
    code = compile(source, f"<frozen {standard_name}>", "exec", dont_inherit=True, optimize=2)
    data = marshal.dumps(code)
    lines.append(f"static const unsigned char code_{name}[] = {{{','.join(map(str, data))}}};")
    return f'\t{{.name = "{name}", .code = code_{name}, .size = sizeof(code_{name})}},'


def frozen_tables() -> list[str]:
    lines: list[str] = []
    bootstrap = [frozen_row(lines, name, standard) for name, standard in BOOTSTRAP.items()]
    stdlib = [frozen_row(lines, name, name) for name in STDLIB]
    aliases = [f'\t{{"{name}", "{standard}"}},' for name, standard in BOOTSTRAP.items() if name != standard]
    return [
        *lines,
        *("static const struct _frozen bootstrap[] = {", *bootstrap, "\t{0},", "};"),
        *("static const struct _frozen stdlib[] = {", *stdlib, "\t{0},", "};"),
        "static const struct _frozen none[] = {{0}};",
        "const struct _frozen *_PyImport_FrozenBootstrap = bootstrap;",
        "const struct _frozen *_PyImport_FrozenStdlib = stdlib;",
        "const struct _frozen *_PyImport_FrozenTest = none;",
        "const struct _frozen *PyImport_FrozenModules = NULL;",
        "struct _module_alias { const char *name, *orig; };",
        *("static const struct _module_alias aliases[] = {", *aliases, "\t{0},", "};"),
        "const struct _module_alias *_PyImport_FrozenAliases = aliases;",
        "int _Py_Deepfreeze_Init(void) { return 0; }",
        "void _Py_Deepfreeze_Fini(void) {}",
    ]


def main() -> None:
    library, output, source = sys.argv[1:]
    symbols = defined_symbols(library)
    unwanted = {f"PyInit_{name}" for name in UNWANTED} | {"_PyImport_Inittab"}
    drop = sorted(member for member, names in symbols.items() if names & unwanted)
    lines = ["#include <Python.h>", *builtin_table(sorted(set(sys.builtin_module_names) - UNWANTED | OURS))]
    if sys.version_info < (3, 13) and can_replace_frozen(symbols):
        drop += ["deepfreeze.o", "frozen.o"]
        lines += frozen_tables()
    shutil.copy(library, output)
    subprocess.run(["ar", "d", output, *drop], check=True)
    Path(source).write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()

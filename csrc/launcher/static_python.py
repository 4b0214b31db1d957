"""Prepares libpython*.a for the launcher: without the members that need libexpat and libz.

Usage: static_python.py libpython.a OUTPUT.a OUTPUT.c. Loading the two libraries at every start
costs more than all of ocirt's own imports; xml and zlib are not used. The C file is the table of
builtin modules that remains.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

UNWANTED = {"pyexpat", "_elementtree", "zlib", "xxsubtype"}
SPECIAL = {"_warnings": "_PyWarnings_Init", "marshal": "PyMarshal_Init", "builtins": None, "sys": None}


def members_to_drop(library: str) -> list[str]:
    symbols = subprocess.run(["nm", "-A", library], capture_output=True, text=True, check=True).stdout
    wanted = {f"PyInit_{name}" for name in UNWANTED} | {"PyImport_Inittab"}
    members = set()
    for line in symbols.splitlines():
        words = line.split()
        if words[-1] in wanted | {"_PyImport_Inittab"} and words[-2] in "TDdR":
            member = words[0].split(":")[1]
            if member != "import.o":
                members.add(member)
    return sorted(members)


def table(names: list[str]) -> str:
    rows, declarations = [], []
    for name in names:
        function = SPECIAL.get(name, f"PyInit_{name}")
        if function:
            declarations.append(f"extern PyObject *{function}(void);")
        rows.append(f'\t{{"{name}", {function or "NULL"}}},')
    return "\n".join(
        [
            "#include <Python.h>",
            *declarations,
            "struct _inittab _PyImport_Inittab[] = {",
            *rows,
            "\t{NULL, NULL},",
            "};",
            "",
        ]
    )


def main() -> None:
    library, output, source = sys.argv[1:]
    shutil.copy(library, output)
    subprocess.run(["ar", "d", output, *members_to_drop(library)], check=True)
    names = sorted(set(sys.builtin_module_names) - UNWANTED)
    with open(source, "w", encoding="utf-8") as stream:
        stream.write(table(names))


if __name__ == "__main__":
    main()

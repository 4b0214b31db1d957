"""Writes the C source of the cffi module `ocirt._shim` (API mode).

Usage: build.py OUTPUT.c. Declarations are those of shim.h, constants those of constants.txt.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent


def declarations() -> str:
    """What cffi is told: the header without what only the C preprocessor understands."""
    header = (HERE / "shim.h").read_text()
    header = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    return re.sub(r"^#.*$", "", header, flags=re.MULTILINE)


def constants() -> list[str]:
    lines = (HERE / "constants.txt").read_text().splitlines()
    return [name for line in lines if not line.startswith("#") for name in line.split()]


def main() -> None:
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.cdef("".join(f"#define {name} ...\n" for name in constants()))
    ffi.set_source("ocirt._shim", '#include "constants.h"\n#include "shim.h"\n')
    ffi.emit_c_code(sys.argv[1])


if __name__ == "__main__":
    main()

"""What the launcher's build must know of the Python that runs this script, one fact per line.

version, extension suffix, installation directory below the prefix, standard library, prefix,
system site directories, executable, static library (or nothing).
"""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig


def static_library() -> str:
    version = sysconfig.get_config_var("LDVERSION")
    for directory in (sysconfig.get_config_var("LIBPL"), sysconfig.get_config_var("LIBDIR")):
        path = f"{directory}/libpython{version}.a"
        if os.path.exists(path):
            return path
    return ""


def system_sites() -> list[str]:
    """Where the base Python's own distributions are; a venv answers for its base."""
    return site.getsitepackages([sys.base_prefix, sys.base_exec_prefix])


def main() -> None:
    version = sysconfig.get_config_var("py_version_short")
    platlib = os.path.relpath(sysconfig.get_path("platlib"), sysconfig.get_path("data"))
    executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    assert re.fullmatch(r"3\.\d+", version)
    print(version)
    print(sysconfig.get_config_var("EXT_SUFFIX"))
    print(platlib)
    print(sysconfig.get_path("stdlib"))
    print(sys.base_prefix)
    print(":".join(dict.fromkeys(os.path.normpath(path) for path in system_sites())))
    print(executable)
    print(static_library())


if __name__ == "__main__":
    main()

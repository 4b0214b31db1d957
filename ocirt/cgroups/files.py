"""Files of a cgroup: read and written whole."""

from __future__ import annotations

import posix
from errno import ENODEV


def write_file(path: str, text: str) -> None:
    """One write(2) for each line: the kernel looks at no more. OSError as the kernel gives it."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        for line in text.encode().splitlines(keepends=True):
            posix.write(fd, line)
    finally:
        posix.close(fd)


def read_text(path: str) -> str:
    """Content of a cgroup file without the newline at the end; "" when it or its group is gone."""
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        parts = []
        while part := posix.read(fd, 65536):
            parts.append(part)
    except OSError as error:
        if error.errno != ENODEV:  # removed while it was open
            raise
        return ""
    finally:
        posix.close(fd)
    return b"".join(parts).decode().rstrip("\n")


def read_key(path: str, key: str) -> int:
    """The number behind a key of a flat keyed file such as memory.events; 0 if there is none."""
    for line in read_text(path).splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0

"""Files and directories that are there when they are whole, under a temporary name before."""

from __future__ import annotations

import os
import stat
from typing import IO

from oci_image.errors import ImageError

STDOUT = "-"


def temporary(path: str) -> str:
    """A name beside path that nobody has. Not by the process id: in containers that is always the same,
    and what a killed process left would be in the way of the next one.
    """
    return f"{path}.{os.urandom(6).hex()}.tmp"


class NewFile:
    """A file of a command's user: write to `file`, then commit(); close() without it leaves no file.

    "-" is stdout, a symlink is followed, and what is no regular file (a pipe, a device) is written to
    as it is: it must not be replaced by a file.
    """

    def __init__(self, path: str) -> None:
        self._temporary = ""
        if path == STDOUT:
            self.file: IO[bytes] = os.fdopen(os.dup(1), "wb")
            return
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            mode = stat.S_IFREG
        if stat.S_ISDIR(mode):
            raise ImageError(path, "is a directory")
        if not stat.S_ISREG(mode):
            self.file = open(path, "wb")
            return
        self._path = os.path.realpath(path)
        name = temporary(self._path)
        self.file = open(name, "xb")
        self._temporary = name

    def commit(self) -> None:
        self.file.flush()
        if self._temporary:
            os.fsync(self.file.fileno())
            os.rename(self._temporary, self._path)
            self._temporary = ""

    def close(self) -> None:
        if self._temporary:
            os.unlink(self._temporary)
            self._temporary = ""
        try:
            self.file.close()
        except BrokenPipeError:
            pass  # whoever read it went away, which a write told already

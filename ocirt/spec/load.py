"""config.json and its kin, from a file to a dict."""

from __future__ import annotations

import posix
from _stat import S_ISDIR, S_ISREG

from ocirt.errors import SpecError, StepError
from ocirt.spec import jsontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONFIG = "config.json"
MAX_SIZE = 64 << 20  # bytes; the largest real configs have a few hundred KiB

# A FIFO or a terminal in place of the file must neither block nor become ours.
_FLAGS = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NONBLOCK | posix.O_NOCTTY


def load(path: str) -> dict[str, Any]:
    """The object in a JSON file, or in config.json of a bundle directory; not yet checked.

    Unknown members and nulls are kept as they are. Raises StepError when the file cannot be
    opened or read, SpecError when it is not a regular file of at most 64 MiB with one JSON
    object.
    """
    data, name = _read_named(path)
    return parse(data, name)


def read(path: str) -> bytes:
    """The bytes of a JSON file, or of config.json of a bundle directory. Raises as load does."""
    return _read_named(path)[0]


def parse(data: bytes | str, name: str = CONFIG) -> dict[str, Any]:
    """The object in a JSON text; name is what errors call the document."""
    document = jsontext.loads(data, name)
    if not isinstance(document, dict):
        raise SpecError(name, "is not a JSON object")
    return document


def _read_named(path: str) -> tuple[bytes, str]:
    fd = _open(path)
    try:
        if S_ISDIR(posix.fstat(fd).st_mode):
            path = f"{path.rstrip('/')}/{CONFIG}"
            directory, fd = fd, _open(CONFIG, directory=fd, shown=path)
            posix.close(directory)
        return _read(fd, path), path.rpartition("/")[2]
    finally:
        posix.close(fd)


def _open(name: str, directory: int | None = None, shown: str = "") -> int:
    try:
        return posix.open(name, _FLAGS, dir_fd=directory)
    except OSError as error:
        raise StepError(error.errno or 0, "open", detail=shown or name) from None


def _read(fd: int, path: str) -> bytes:
    status = posix.fstat(fd)
    if not S_ISREG(status.st_mode):
        raise SpecError(path, "is not a regular file")
    parts = []
    total = 0
    want = status.st_size + 1
    try:
        while total <= MAX_SIZE and (part := posix.read(fd, min(want, MAX_SIZE + 1))):
            parts.append(part)
            total += len(part)
            want = 1 << 20  # the file grew since fstat
    except OSError as error:
        raise StepError(error.errno or 0, "read", detail=path) from None
    if total > MAX_SIZE:
        raise SpecError(path, f"is larger than the {MAX_SIZE >> 20} MiB that are allowed")
    return b"".join(parts)

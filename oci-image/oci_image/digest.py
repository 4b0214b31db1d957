"""Digests: their syntax, and streams that are compared with one (image-spec, descriptor.md, Digests)."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Protocol

from oci_image.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable

SECTION = "descriptor.md, Digests"
CHUNK = 1 << 20  # bytes read at once

# Registered algorithms that this Python computes; hexadecimal digits of each.
ALGORITHMS = {"sha256": 64, "sha512": 128}
_SYNTAX = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)", re.ASCII)
_HEX = re.compile(r"[a-f0-9]+", re.ASCII)


class Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class Reader(Protocol):
    """A stream of bytes: b"" at its end, never more than size bytes."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def check_digest(text: object, where: str) -> tuple[str, str]:
    """(algorithm, hexadecimal digits) of a digest that may safely be made a file name.

    Raises ImageError naming where it stood (CVE-2024-3727).
    """
    if not isinstance(text, str) or not (match := _SYNTAX.fullmatch(text)):
        raise ImageError(where, f"{text!r} is not a digest", SECTION)
    algorithm, encoded = match[1], match[2]
    length = ALGORITHMS.get(algorithm)
    if length is None:
        raise ImageError(where, f"digest algorithm {algorithm} is not supported: {', '.join(ALGORITHMS)} are")
    if len(encoded) != length or not _HEX.fullmatch(encoded):
        raise ImageError(where, f"{text!r}: {algorithm} has {length} lower-case hexadecimal digits", SECTION)
    return algorithm, encoded


def new_hash(algorithm: str = "sha256") -> Hash:
    return hashlib.new(algorithm)


def of_bytes(data: bytes, algorithm: str = "sha256") -> str:
    """Digest of data."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Verified:
    """A reader that passes bytes on and refuses, at the latest at the end, what is not the blob.

    where names the blob in errors. close() alone does not verify: only who reads b"" has seen all.
    """

    def __init__(self, reader: Reader, digest: str, size: int, where: str) -> None:
        algorithm, self._wanted = check_digest(digest, where)
        self._hash = new_hash(algorithm)
        self._algorithm = algorithm
        self._reader = reader
        self._size = size
        self._where = where
        self._done = 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        if data:
            self._done += len(data)
            if self._done > self._size:
                raise ImageError(self._where, f"has more than the {self._size} bytes of its descriptor")
            self._hash.update(data)
        else:
            self._finish()
        return data

    def _finish(self) -> None:
        if self._done != self._size:
            raise ImageError(self._where, f"has {self._done} bytes, its descriptor says {self._size}")
        found = self._hash.hexdigest()
        if found != self._wanted:
            raise ImageError(self._where, f"its content is {self._algorithm}:{found}")

    def close(self) -> None:
        self._reader.close()


def copy_stream(reader: Reader, write: Callable[[bytes], object]) -> int:
    """Everything from reader through write; the number of bytes."""
    total = 0
    while data := reader.read(CHUNK):
        write(data)
        total += len(data)
    return total

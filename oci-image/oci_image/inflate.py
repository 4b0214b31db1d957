"""Compressed streams: told by their first bytes, inflated piece by piece, in threads.

gzip is inflated by isal where it is installed, else by zlib-ng, else by zlib; zstd by zstandard.
No program is ever executed for it, whatever PATH holds (CVE-2026-41567).
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

from oci_image.digest import new_hash
from oci_image.errors import ImageError, TooLarge
from oci_image.tarstream import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_image.digest import Reader
    from oci_image.tarstream import Limits

PIECE = 1 << 20  # bytes that come out at once: what a thread gets done before the next one may go on
INPUT = 1 << 18
PATIENCE = 2  # seconds that a read may last when nobody wants it any more
AHEAD = 8  # pieces that a thread may be ahead
MAX_WINDOW = 1 << 27  # bytes of memory that a zstd frame may ask for, as of zstd's own command

_ZSTD_SKIPPABLE = tuple(bytes([0x50 + i, 0x2A, 0x4D, 0x18]) for i in range(16))
_UNREAD = {b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x04\x22\x4d\x18": "lz4", b"\x1f\x9d": "compress"}


def compression_of(start: bytes, where: str) -> str:
    """ "gzip", "zstd" or "" from the first bytes of a stream. Raises ImageError for what is not read."""
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    if start.startswith((b"\x28\xb5\x2f\xfd", *_ZSTD_SKIPPABLE)):
        return "zstd"
    for magic, name in _UNREAD.items():
        if start.startswith(magic):
            raise ImageError(where, f"is compressed with {name}; image-spec has gzip and zstd")
    return ""


class Peeked:
    """A reader whose first bytes can be looked at."""

    def __init__(self, reader: Reader, size: int = 8) -> None:
        self._reader = reader
        self.start = b""
        while len(self.start) < size and (part := reader.read(INPUT)):
            self.start += part
        self._first = self.start

    def read(self, size: int, /) -> bytes:
        if self._first:
            data, self._first = self._first[:size], self._first[size:]
            return data
        return self._reader.read(size)

    def close(self) -> None:
        self._reader.close()


def inflated(reader: Reader, where: str, limits: Limits = LIMITS) -> Reader:
    """What reader holds, uncompressed and bounded by limits; closing it closes reader."""
    peeked = Peeked(reader)
    counted = _Counted(peeked)
    kind = compression_of(peeked.start, where)
    plain: Reader = counted
    if kind == "gzip":
        plain = _Gzip(counted, where)
    elif kind == "zstd":
        plain = _Zstd(counted, where)
    return _Bounded(plain, counted, where, limits)


class _Counted:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.total = 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self.total += len(data)
        return data

    def close(self) -> None:
        self._reader.close()


class _Bounded:
    """Refuses what comes out of a bomb."""

    def __init__(self, reader: Reader, compressed: _Counted, where: str, limits: Limits) -> None:
        self._reader = reader
        self._compressed = compressed
        self._where = where
        self._limits = limits
        self._total = 0

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._total += len(data)
        limits = self._limits
        if self._total > limits.total:
            raise TooLarge(self._where, f"has more than {limits.total} bytes uncompressed")
        if self._total > limits.free and self._total > limits.ratio * self._compressed.total:
            reason = f"{self._compressed.total} bytes became more than {limits.ratio} times as many"
            raise TooLarge(self._where, reason)
        return data

    def close(self) -> None:
        self._reader.close()


def _gzip_decompressor() -> tuple[Callable[[], Any], Any]:
    """(constructor, its error): objects with decompress(data, max_length), eof, needs_input, unused_data."""
    try:
        from isal import igzip_lib
    except ImportError:
        return _zlib_decompressor()
    return lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP), igzip_lib.IsalError


def _zlib_decompressor() -> tuple[Callable[[], Any], Any]:
    import zlib

    module: Any = zlib
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        pass
    else:
        module = zlib_ng
    return lambda: _ZlibDecompressor(module), module.error


class _ZlibDecompressor:
    """zlib's object with the interface of bz2's: what was not consumed is kept."""

    def __init__(self, module: Any) -> None:
        self._object = module.decompressobj(31)

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data  # type: ignore[no-any-return]

    @property
    def needs_input(self) -> bool:
        return not self._object.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._object.decompress(self._object.unconsumed_tail + data, max_length)  # type: ignore[no-any-return]


class _Gzip:
    """All members of a gzip stream (RFC 1952)."""

    def __init__(self, reader: Reader, where: str) -> None:
        self._reader = reader
        self._where = where
        self._new, self._failure = _gzip_decompressor()
        self._member: Any = None
        self._rest = b""  # of the input, behind the member that ended

    def read(self, size: int, /) -> bytes:
        while True:
            data = b""
            if self._member is None:
                self._rest = self._rest or self._reader.read(INPUT)
                if not self._rest:
                    return b""
                self._member = self._new()
                data, self._rest = self._rest, b""
            elif self._member.needs_input:
                data = self._reader.read(INPUT)
                if not data:
                    raise ImageError(self._where, "gzip: the stream is cut off")
            try:
                out: bytes = self._member.decompress(data, size)
            except self._failure as error:
                raise ImageError(self._where, f"gzip: {str(error).lower()}") from None
            if self._member.eof:
                self._rest = self._member.unused_data
                self._member = None
            if out:
                return out

    def close(self) -> None:
        self._reader.close()


class _Zstd:
    """All frames of a zstd stream (RFC 8878)."""

    def __init__(self, reader: Reader, where: str) -> None:
        import zstandard

        self._reader = reader
        self._where = where
        self._failure = zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        self._stream = decompressor.stream_reader(
            reader,  # type: ignore[arg-type]
            read_size=INPUT,
            read_across_frames=True,
            closefd=False,
        )

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except self._failure as error:
            raise ImageError(
                self._where, str(error).replace("zstd decompress error", "zstd").lower()
            ) from None

    def close(self) -> None:
        self._reader.close()


class Pipeline:
    """Reads ahead in a thread: chunk() gives the pieces of reader, b"" at the end.

    algorithm: the pieces are hashed, in another thread; digest() is theirs once all were given out.
    What goes wrong in a thread is raised by chunk(). close() stops the threads and closes reader.

    The queues are SimpleQueues, which take a lock of C and no more; who takes a piece out of one gives
    a token back, and a piece is read for as many tokens as there are queues. None stops a thread.
    """

    def __init__(self, reader: Reader, algorithm: str = "", size: int = PIECE) -> None:
        self._reader = reader
        self._size = size
        self._queue: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._hashing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._tokens: queue.SimpleQueue[bool | None] = queue.SimpleQueue()
        self._algorithm = algorithm
        self._hash = new_hash(algorithm) if algorithm else None
        self._threads = [threading.Thread(target=self._read, name="inflate", daemon=True)]
        if self._hash:
            self._threads.append(threading.Thread(target=self._digest, name="hash", daemon=True))
        for _ in range(AHEAD * len(self._threads)):
            self._tokens.put(True)
        self._ended = self._stop = False
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        try:
            while all(self._tokens.get() for _ in self._threads) and not self._stop:
                piece = self._reader.read(self._size)
                if self._hash:
                    self._hashing.put(piece)
                self._queue.put(piece)
                if not piece:
                    return
        except BaseException as error:
            self._queue.put(error)

    def _digest(self) -> None:
        assert self._hash
        while piece := self._hashing.get():
            self._hash.update(piece)
            self._tokens.put(True)

    def chunk(self) -> bytes:
        if self._ended:
            return b""
        piece = self._queue.get()
        if isinstance(piece, BaseException):
            self._ended = True
            raise piece
        self._tokens.put(True)
        self._ended = not piece
        return piece

    def digest(self) -> str:
        """Digest of everything that chunk gave out, which must have come to its end."""
        assert self._hash
        assert self._ended
        self._threads[1].join()
        return f"{self._algorithm}:{self._hash.hexdigest()}"

    def close(self) -> None:
        self._stop = True
        self._tokens.put(None)
        self._hashing.put(None)
        self._threads[0].join(PATIENCE)
        if self._threads[0].is_alive():
            return  # it waits for a pipe that nobody writes to, and ends with the process
        for thread in self._threads[1:]:
            thread.join()
        self._reader.close()

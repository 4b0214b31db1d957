"""Compression of new layers, in threads; what it gives does not depend on how many there are.

gzip: one member (RFC 1952) of blocks that are compressed apart, each with the end of the one before it
as its dictionary, as pigz does it. By zlib, which is in every Python and gives the same bytes on every
processor: isa-l is several times faster, but not always there, and has other code for other processors,
of which nobody promises the same bytes. zstd: by libzstd with workers; even one gives other bytes than
none, but more the same.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

COMPRESSIONS = ("gzip", "zstd", "none")
BLOCK = 1 << 18  # bytes that a thread compresses at once
WINDOW = 1 << 15  # bytes that deflate looks back
GZIP_LEVEL = 4  # 2 % more than level 6 in less than half the time
ZSTD_LEVEL = 3
MOST_THREADS = 16
_GZIP_HEADER = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, unknown system


class Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def compressor(kind: str, threads: int = 0) -> Compressor:
    """For one of COMPRESSIONS, in as many threads as there are processors for this process."""
    threads = threads or min(len(os.sched_getaffinity(0)), MOST_THREADS)
    if kind == "none":
        return _Plain()
    if kind == "gzip":
        return _Gzip(threads)
    import zstandard  # gzip does without

    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True, threads=threads).compressobj()


class _Plain:
    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


class _Gzip:
    def __init__(self, threads: int) -> None:
        from concurrent.futures import ThreadPoolExecutor  # as heavy as all of this module

        self._pool = ThreadPoolExecutor(threads, "deflate")
        self._ahead = 2 * threads  # blocks in the pool
        self._blocks: deque[Future[bytes]] = deque()
        self._input = bytearray()
        self._dictionary = b""
        self._out = _GZIP_HEADER
        self._crc = self._size = 0

    def compress(self, data: bytes, /) -> bytes:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._input += data
        while len(self._input) > BLOCK:  # the last block is left for flush()
            self._begin(bytes(self._input[:BLOCK]), zlib.Z_SYNC_FLUSH)
            del self._input[:BLOCK]
        return b"".join(self._done(self._ahead))

    def flush(self) -> bytes:
        self._begin(bytes(self._input), zlib.Z_FINISH)
        out = b"".join(self._done(0))
        self._pool.shutdown()
        return out + self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")

    def _begin(self, block: bytes, mode: int) -> None:
        self._blocks.append(self._pool.submit(_deflate, block, self._dictionary, mode))
        self._dictionary = block[-WINDOW:]

    def _done(self, ahead: int) -> Iterator[bytes]:
        """What is compressed, in order; waits until at most ahead blocks are left."""
        yield self._out
        self._out = b""
        while len(self._blocks) > ahead or (self._blocks and self._blocks[0].done()):
            yield self._blocks.popleft().result()


def _deflate(block: bytes, dictionary: bytes, mode: int) -> bytes:
    """A block that ends at a byte; its memory is freed with it."""
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -15, zlib.DEF_MEM_LEVEL, 0, dictionary)
    return packer.compress(block) + packer.flush(mode)

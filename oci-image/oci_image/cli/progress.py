"""A bar on stderr while long work goes on, where stderr is a terminal; nothing elsewhere."""

from __future__ import annotations

import os
import stat
import sys
import time
from typing import TYPE_CHECKING

from oci_image.cli.common import size_text
from oci_image.look import manifests
from oci_image.transfer import read_document, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader
    from oci_image.platforms import Platform
    from oci_image.transports import Image, Source

INTERVAL = 0.1  # seconds between two pictures
WIDTH = 30


class Bar:
    """Counts bytes of work; use it in a with statement, which takes the bar away.

    As long as nothing says how many are expected, it shows how many were done.
    """

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._total = self._done = 0
        self._begin = self._last = time.monotonic()

    def watch(
        self,
        source: Source,
        top: Descriptor,
        platform: Platform | None = None,
        every: bool = False,
        times: int = 1,
        has: Callable[[Descriptor], bool] = lambda _: False,
    ) -> Source:
        """source, whose blobs are counted; those of an image of it (with every, all of an index) are
        expected as often as they are going to be read, but for layers that the target has.
        """
        if not self._shown:
            return source
        if every:
            documents = [manifest for _, manifest in manifests(source, top)]
        else:
            documents = [read_document(source, resolve(source, top, platform))[1]]
        for one in documents:
            layers = sum(blob["size"] for blob in one["layers"] if not has(blob))
            self.expect(one["config"]["size"] + times * layers)
        return _Watched(source, self)

    def reader(self, reader: Reader, fd: int = -1) -> Reader:
        """reader, whose bytes are counted; with the fd of a regular file, all of its bytes are expected."""
        if not self._shown:
            return reader
        if fd >= 0 and stat.S_ISREG((status := os.fstat(fd)).st_mode):
            self.expect(status.st_size)
        return _Counted(reader, self)

    def writer(self, write: Callable[[bytes], object]) -> Callable[[bytes], object]:
        """write, whose bytes are counted."""

        def counted(data: bytes) -> None:
            write(data)
            self.add(len(data))

        return counted if self._shown else write

    def blob(self, descriptor: Descriptor, there: bool) -> None:
        """As transfer.Options.progress: a blob that need not be read counts as well."""
        if there:
            self.add(descriptor["size"])

    def expect(self, size: int) -> None:
        self._total += size

    def add(self, size: int) -> None:
        self._done += size
        now = time.monotonic()
        if self._shown and now - self._last >= INTERVAL:
            self._last = now
            self._draw(now)

    def _draw(self, now: float) -> None:
        rate = f"{size_text(int(self._done / max(now - self._begin, 0.001)))}/s"
        text = f"{size_text(self._done)}  {rate}"
        if self._total:
            part = min(1.0, self._done / self._total)
            bar = ("=" * int(part * WIDTH) + ">").ljust(WIDTH + 1)
            text = f"[{bar}] {part:4.0%}  {size_text(self._done)} of {size_text(self._total)}  {rate}"
        sys.stderr.write(f"\r\033[K{text[: _columns() - 1]}")
        sys.stderr.flush()

    def end(self) -> None:
        """Take the bar away."""
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


class _Watched:
    """A source whose blobs are counted."""

    def __init__(self, source: Source, bar: Bar) -> None:
        self._source = source
        self._bar = bar
        self.where = source.where

    def images(self) -> list[Image]:
        return self._source.images()

    def find(self, name: str) -> Descriptor:
        return self._source.find(name)

    def open_blob(self, descriptor: Descriptor) -> Reader:
        return _Counted(self._source.open_blob(descriptor), self._bar)

    def close(self) -> None:
        self._source.close()


class _Counted:
    def __init__(self, reader: Reader, bar: Bar) -> None:
        self._reader = reader
        self._bar = bar

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._bar.add(len(data))
        return data

    def close(self) -> None:
        self._reader.close()

"""Compressed streams: every way to write them is read, every way to break them is told."""

from __future__ import annotations

import builtins
import gzip
import io
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from oci_image import inflate
from oci_image.digest import of_bytes
from oci_image.errors import ImageError, TooLarge
from oci_image.inflate import Pipeline, inflated
from oci_image.tarstream import Limits

DATA = b"".join(b"line %d\n" % i for i in range(100_000))


def read(data: bytes, limits: Limits | None = None) -> bytes:
    reader = inflated(io.BytesIO(data), "layer", limits or Limits())
    out = []
    while piece := reader.read(inflate.PIECE):
        assert len(piece) <= inflate.PIECE
        out.append(piece)
    return b"".join(out)


@pytest.fixture(params=["isal", "zlib_ng", "zlib"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each library in turn, the better ones being absent."""
    hidden = {"isal": set(), "zlib_ng": {"isal"}, "zlib": {"isal", "zlib_ng"}}[request.param]
    plain = builtins.__import__

    def load(name: str, *rest: Any) -> Any:
        if name in hidden:
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", load)
    return str(request.param)


def test_gzip_is_read_by_every_library(library: str) -> None:
    assert read(gzip.compress(DATA, 6)) == DATA


def test_members_of_a_gzip_stream_are_read_as_one(library: str) -> None:
    parts = [DATA[at : at + 10_000] for at in range(0, len(DATA), 10_000)]
    assert read(b"".join(gzip.compress(part, 1) for part in parts) + gzip.compress(b"")) == DATA


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data[:-9], "cut off"),
        (lambda data: data[:-8] + bytes(8), "gzip: "),
        (lambda data: data + b"garbage", "gzip: "),
        (lambda data: data[:20] + bytes(40) + data[60:], "gzip: "),
    ],
    ids=["cut", "checksum", "garbage", "damage"],
)
def test_damaged_gzip_is_told(library: str, change: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        read(change(gzip.compress(DATA)))


def test_zstd_is_read_also_in_several_frames() -> None:
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    skippable = bytes([0x53, 0x2A, 0x4D, 0x18, 4, 0, 0, 0]) + b"note"
    assert read(compress(DATA) + skippable + compress(DATA)) == DATA * 2
    assert read(skippable + compress(DATA)) == DATA


def test_damaged_zstd_is_told() -> None:
    data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(DATA))
    data[-2] ^= 1
    with pytest.raises(ImageError, match="zstd: "):
        read(bytes(data))


def test_what_follows_a_zstd_stream_is_told() -> None:
    with pytest.raises(ImageError, match="zstd"):
        read(zstandard.ZstdCompressor().compress(DATA) + b"garbage")


def test_a_zstd_window_that_is_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(ImageError, match="zstd"):
        read(compressor.compress(DATA) + compressor.flush())


def test_what_is_not_compressed_passes() -> None:
    assert read(DATA) == DATA
    assert read(b"") == b""


@pytest.mark.parametrize(("start", "name"), [(b"BZh91AY", "bzip2"), (b"\xfd7zXZ\0\0", "xz")])
def test_other_compressions_are_refused_by_name(start: bytes, name: str) -> None:
    with pytest.raises(ImageError, match=f"compressed with {name}"):
        read(start)


@pytest.mark.parametrize("compress", [lambda data: zlib.compress(data, 9, 31), zstandard.compress])
def test_a_bomb_is_refused_at_the_ratio(compress: Callable[[bytes], bytes]) -> None:
    bomb = compress(bytes(64 << 20))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge, match="times as many"):
        read(bomb, Limits(free=1 << 20, ratio=250))
    with pytest.raises(TooLarge, match="uncompressed"):
        read(bomb, Limits(total=1 << 20))


def test_a_pipeline_gives_the_pieces_and_their_digest() -> None:
    pipeline = Pipeline(inflated(io.BytesIO(gzip.compress(DATA)), "layer"), "sha256")
    out = b""
    while piece := pipeline.chunk():
        out += piece
    assert out == DATA
    assert pipeline.chunk() == b""
    assert pipeline.digest() == of_bytes(DATA)
    pipeline.close()


def test_an_error_in_the_thread_is_raised_where_the_pieces_are_read() -> None:
    pipeline = Pipeline(inflated(io.BytesIO(gzip.compress(DATA)[:-20]), "layer"), "sha256")
    with pytest.raises(ImageError, match="cut off"):
        list(iter(pipeline.chunk, b""))
    pipeline.close()


def test_a_pipeline_can_be_left_before_its_end() -> None:
    pipeline = Pipeline(inflated(io.BytesIO(bytes(64 << 20)), "layer"), "sha256")
    assert pipeline.chunk()
    pipeline.close()

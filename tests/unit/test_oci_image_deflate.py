"""Compression of new layers: readable by all, the same bytes whatever the machine has."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import subprocess
import sys
import zlib

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_image.deflate import BLOCK, compressor
from oci_image.inflate import inflated
from tests.lib.declared import missing
from tests.lib.images import digest

GENERATOR = random.Random(7)
WORDS = [GENERATOR.randbytes(GENERATOR.randrange(2, 40)) for _ in range(500)]
DATA = b"".join(GENERATOR.choice(WORDS) for _ in range(100_000))  # about 2 MB
SIZES = (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, len(DATA))


def packed(kind: str, data: bytes, threads: int = 2, chunk: int = 1 << 20) -> bytes:
    packer = compressor(kind, threads)
    out = [packer.compress(data[at : at + chunk]) for at in range(0, len(data), chunk)]
    return b"".join(out) + packer.flush()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_bytes_depend_on_neither_threads_nor_pieces(kind: str) -> None:
    wanted = packed(kind, DATA, 1)
    for threads, chunk in ((1, 512 * 7), (2, len(DATA)), (3, 100_000), (8, BLOCK)):
        assert packed(kind, DATA, threads, chunk) == wanted


@pytest.mark.parametrize("size", SIZES)
def test_gzip_is_one_member_that_python_reads(size: int) -> None:
    blob = packed("gzip", DATA[:size])
    assert gzip.decompress(blob) == DATA[:size]
    reader = zlib.decompressobj(31)
    assert reader.decompress(blob) == DATA[:size]
    assert reader.eof
    assert reader.unused_data == b""
    assert gzip.GzipFile(fileobj=io.BytesIO(blob)).read(1) == DATA[: min(size, 1)]


@pytest.mark.parametrize("program", ["gzip -dc", "igzip -dc", "pigz -dc", "bsdcat", "busybox gunzip -c"])
@pytest.mark.parametrize("size", SIZES)
def test_gzip_is_read_by_other_programs(program: str, size: int) -> None:
    if not shutil.which(program.split()[0]):
        missing(f"{program.split()[0]} is not installed: tests/install-deps does it")
    blob = packed("gzip", DATA[:size])
    assert subprocess.run(program.split(), input=blob, capture_output=True, check=True).stdout == DATA[:size]


@pytest.mark.parametrize("kind", ["gzip", "zstd", "none"])
@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.tuples(st.integers(0, 1_000_000), st.integers(0, BLOCK + 9)), max_size=6))
def test_what_was_packed_is_what_comes_out(kind: str, pieces: list[tuple[int, int]]) -> None:
    parts = [DATA[at : at + size] for at, size in pieces]
    packer = compressor(kind)
    blob = b"".join(packer.compress(part) for part in parts) + packer.flush()
    reader = inflated(io.BytesIO(blob), "blob")
    assert b"".join(iter(lambda: reader.read(1 << 20), b"")) == b"".join(parts)


def test_zstd_frames_have_a_checksum() -> None:
    assert zstandard.get_frame_parameters(packed("zstd", DATA)).has_checksum


def test_gzip_bytes_are_those_of_zlib_whether_isal_is_there_or_not() -> None:
    code = (
        "import sys; sys.modules.update({'isal': None, 'zlib_ng': None})\n"
        "from oci_image.deflate import compressor\n"
        "packer = compressor('gzip'); data = sys.stdin.buffer.read()\n"
        "sys.stdout.buffer.write(packer.compress(data) + packer.flush())"
    )
    done = subprocess.run([sys.executable, "-c", code], input=DATA, capture_output=True, check=True)
    assert done.stdout == packed("gzip", DATA)


@pytest.mark.skipif(
    zlib.ZLIB_RUNTIME_VERSION != "1.2.13", reason=f"zlib {zlib.ZLIB_RUNTIME_VERSION} may give other bytes"
)
def test_gzip_bytes_do_not_change_from_release_to_release() -> None:
    """What reproduces an image is worth nothing if the next version of this program gives other bytes."""
    assert (
        digest(packed("gzip", DATA))
        == "sha256:ced8c0295783dd1a008661e3e46c5f1d48e8d739d5aaba8ef4503a28c7a6bac5"
    )

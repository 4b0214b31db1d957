"""Makes the `ocirt` command from the launcher and the started interpreter that it leaves.

Usage: snapshot.py LAUNCHER OUTPUT. OUTPUT is LAUNCHER with other initial data: its writable segment
is replaced by what the launcher's memory held when Python had started (snapshot.c).
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

PT_LOAD, PF_W = 1, 2
SHT_PROGBITS, SHT_NOBITS = 1, 8


class Segment(NamedTuple):
    """Elf64_Phdr."""

    kind: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


class Section(NamedTuple):
    """Elf64_Shdr."""

    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int


SEGMENT = struct.Struct("<IIQQQQQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")


def take_snapshot(launcher: str) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "snapshot"
        subprocess.run([launcher, str(path)], check=True, env={}, stdin=subprocess.DEVNULL)
        return path.read_bytes()


def with_data(elf: bytes, snapshot: bytes) -> bytes:
    """The executable with snapshot as its data, from the section .data on."""
    segments_at, sections_at = struct.unpack_from("<QQ", elf, 32)
    segment_count, _, section_count, names_index = struct.unpack_from("<HHHH", elf, 56)
    segments = [SEGMENT.size * i + segments_at for i in range(segment_count)]
    sections = [SECTION.size * i + sections_at for i in range(section_count)]

    table = Section(*SECTION.unpack_from(elf, sections[names_index]))
    names = elf[table.offset : table.offset + table.size]
    named = {}
    for at in sections:
        section = Section(*SECTION.unpack_from(elf, at))
        named[names[section.name : names.index(b"\0", section.name)]] = section
    data = named[b".data"]

    (place,) = [
        at
        for at in segments
        if elf[at : at + 4] == struct.pack("<I", PT_LOAD) and SEGMENT.unpack_from(elf, at)[1] & PF_W
    ]
    segment = Segment(*SEGMENT.unpack_from(elf, place))
    before = elf[segment.offset : segment.offset + data.address - segment.address]
    content = before + snapshot
    assert segment.file_size <= len(content) <= segment.memory_size

    offset = len(elf) + (segment.address - len(elf)) % segment.alignment
    out = bytearray(elf.ljust(offset, b"\0") + content)
    whole = segment._replace(offset=offset, file_size=len(content), memory_size=len(content))
    SEGMENT.pack_into(out, place, *whole)
    end = segment.address + len(content)
    for at in sections:
        section = Section(*SECTION.unpack_from(elf, at))
        if not segment.address <= section.address < end or section.address == 0:
            continue
        moved = section._replace(offset=offset + section.address - segment.address)
        if section.kind == SHT_NOBITS:
            moved = moved._replace(kind=SHT_PROGBITS, size=end - section.address)
        SECTION.pack_into(out, at, *moved)
    for at in segments:
        inner = Segment(*SEGMENT.unpack_from(elf, at))
        if inner.kind != PT_LOAD and segment.address <= inner.address < end:
            moved_segment = inner._replace(offset=offset + inner.address - segment.address)
            SEGMENT.pack_into(out, at, *moved_segment)
    return bytes(out)


def main() -> None:
    launcher, output = sys.argv[1:]
    path = Path(output)
    path.write_bytes(with_data(Path(launcher).read_bytes(), take_snapshot(launcher)))
    path.chmod(0o755)


if __name__ == "__main__":
    main()

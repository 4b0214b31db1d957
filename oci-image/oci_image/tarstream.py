"""A tar stream as entries: ustar, PAX, GNU, star and v7 headers, parsed here from the bytes.

pax(1) of POSIX.1-2017 and the GNU tar manual ("Basic Tar Format", "Storing Sparse Files") decide.
Nothing here touches a file system: names are the bytes of the stream, not yet judged.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Protocol
from zlib import adler32

from oci_image.errors import ImageError, TooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
MOST_KNOWN = 1000
ZERO = bytes(BLOCK)

FILE, HARDLINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,  # contiguous
    b"S": FILE,  # GNU sparse
    b"1": HARDLINK,
    b"2": SYMLINK,
    b"3": CHAR,
    b"4": BLOCK_DEVICE,
    b"5": DIRECTORY,
    b"6": FIFO,
}
_EXTENDED = (b"x", b"X", b"g", b"L", b"K", b"V")
XATTR = "SCHILY.xattr."
LIBARCHIVE_XATTR = "LIBARCHIVE.xattr."
NO_ACLS: dict[str, bytes] = {}  # what nearly every entry has
ACLS = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}

_HEADER = Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12s")
_DECIMAL = re.compile(r"(-?)([0-9]{1,19})(?:\.([0-9]*))?", re.ASCII)
_SPACES = b" \0"


class Limits(NamedTuple):
    """What a layer may ask for before it is taken for an attack (security.md of the project: bombs)."""

    total: int = 1 << 40  # bytes of the uncompressed stream, and of all files, holes included
    ratio: int = 250  # uncompressed to compressed, where more than `free` bytes come out
    free: int = 1 << 30
    entries: int = 2_000_000
    special: int = 1 << 20  # bytes of the PAX headers and GNU long names of one entry, and of all global ones
    sparse: int = 1 << 20  # regions of one sparse file
    trailing: int = 64 << 20  # bytes behind the end of the archive


LIMITS = Limits()


class Entry:
    """One member. name and linkname are as in the stream; times are nanoseconds since the epoch.

    size is the file's, holes included; stored what the stream holds of it. sparse lists
    (offset, length) of the data, None for a file without holes. offset is where the data begins.
    acls are texts of ACLs that name users, by the key of their record (ACLS); others are xattrs.
    """

    __slots__ = (
        "acls",
        "atime",
        "gid",
        "gname",
        "kind",
        "linkname",
        "major",
        "minor",
        "mode",
        "mtime",
        "name",
        "offset",
        "size",
        "sparse",
        "stored",
        "uid",
        "uname",
        "xattrs",
    )  # fmt: skip

    kind: bytes
    name: bytes
    linkname: bytes
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime: int
    atime: int | None
    major: int
    minor: int
    xattrs: dict[str, bytes]
    acls: dict[str, bytes]
    sparse: list[tuple[int, int]] | None
    offset: int
    uname: bytes
    gname: bytes


class Source(Protocol):
    """Where the bytes come from: pieces of any size, b"" at the end."""

    def chunk(self) -> bytes: ...


class TarReader:
    """Entries of a tar stream, one after the other.

    where is what errors call the stream. After next(), data() gives the content of a file; what is
    not read is skipped. After the last entry everything up to the stream's end has been read.
    Raises ImageError for what is no tar stream, TooLarge at a limit.
    """

    def __init__(self, source: Source, where: str, limits: Limits = LIMITS) -> None:
        self._source = source
        self._where = where
        self._limits = limits
        self._buffer = b""
        self._at = 0
        self._behind = 0  # bytes before the buffer
        self._left = 0  # of the current entry's data
        self._padding = 0
        self._count = 0
        self._claimed = 0  # sizes of all files
        self._globals: dict[str, bytes] = {}
        self._global_size = 0
        self._who: dict[bytes, tuple[int, int, int]] = {}  # mode, uid and gid by their fields: few differ

    @property
    def position(self) -> int:
        """How many bytes of the stream were taken."""
        return self._behind + self._at

    # The stream

    def _fill(self) -> bool:
        """Go on to the next piece; only when the buffer was used up."""
        self._behind += len(self._buffer)
        self._buffer = self._source.chunk()
        self._at = 0
        return bool(self._buffer)

    def _take(self, size: int) -> bytes:
        """Exactly size bytes, fewer only at the end of the stream."""
        at = self._at
        end = at + size
        if end <= len(self._buffer):
            self._at = end
            return self._buffer[at:end]
        parts = [self._buffer[at:]]
        missing = end - len(self._buffer)
        self._at = len(self._buffer)
        while missing and self._fill():
            part = self._buffer[:missing]
            self._at = len(part)
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _block(self) -> bytes:
        block = self._take(BLOCK)
        if len(block) != BLOCK:
            raise self._error("the stream ends within a header")
        return block

    def _skip(self, size: int) -> None:
        within = min(size, len(self._buffer) - self._at)
        self._at += within
        size -= within
        if size and (seek := getattr(self._source, "skip", None)):
            self._behind += len(self._buffer)
            self._buffer, self._at = b"", 0
            if not seek(size):
                raise self._error("the stream ends within a file")
            self._behind += size
            return
        while size:
            if not self._fill():
                raise self._error("the stream ends within a file")
            self._at = min(size, len(self._buffer))
            size -= self._at

    def data(self) -> Iterator[memoryview]:
        """The stored bytes of the current file, in pieces that are valid until the next one."""
        at = self._at
        end = at + self._left
        if end > len(self._buffer):
            return self._pieces()
        self._at, self._left = end, 0  # nearly all files are small
        return iter((memoryview(self._buffer)[at:end],))

    def _pieces(self) -> Iterator[memoryview]:
        while self._left:
            available = len(self._buffer) - self._at
            if not available:
                if not self._fill():
                    raise self._error("the stream ends within a file")
                available = len(self._buffer)
            size = min(available, self._left)
            at = self._at
            self._at = at + size
            self._left -= size
            yield memoryview(self._buffer)[at : at + size]

    def _error(self, reason: str) -> ImageError:
        return ImageError(self._where, f"tar entry {self._count}: {reason}")

    # Headers

    def next(self) -> Entry | None:
        """The next entry; None at the end."""
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        records: dict[str, bytes] = {}
        regions: list[bytes] = []
        longname = longlink = None
        described = 0  # bytes of extended headers
        while True:
            block = self._take(BLOCK)
            if len(block) < BLOCK:
                if block:
                    raise self._error("the stream ends within a header")
                if records or longname is not None or longlink is not None:
                    raise self._error("the stream ends behind an extended header")
                return None
            if block == ZERO:
                self._end()
                return None
            self._count += 1
            if self._count > self._limits.entries:
                raise TooLarge(self._where, f"has more than {self._limits.entries} tar headers")
            fields = _HEADER.unpack_from(block)
            self._verify_checksum(block, fields[6])
            flag = fields[7]
            if flag in _EXTENDED:
                data = self._special(fields[4], self._global_size if flag == b"g" else described)
                if flag == b"g":
                    self._global_size += len(data)
                    self._read_records(data, self._globals, regions)
                    continue
                described += len(data)
                if flag == b"L":
                    longname = _string(data)
                elif flag == b"K":
                    longlink = _string(data)
                elif flag != b"V":  # a volume label is no file
                    self._read_records(data, records, regions)
            else:
                return self._entry(block, fields, records, regions, longname, longlink)

    def _special(self, size_field: bytes, before: int) -> bytes:
        """Content of a header that describes the next one; before: bytes of others that do."""
        size = self._number(size_field, "size")
        if size < 0:
            raise self._error(f"size {size} is negative")
        if before + size > self._limits.special:
            reason = f"tar entry {self._count}: an extended header of {size} bytes"
            raise TooLarge(self._where, f"{reason}{f' after {before} bytes of others' if before else ''}")
        data = self._take(size)
        if len(data) != size or len(self._take(-size % BLOCK)) != -size % BLOCK:
            raise self._error("the stream ends within an extended header")
        return data

    def _entry(
        self,
        block: bytes,
        fields: tuple[bytes, ...],
        records: dict[str, bytes],
        regions: list[bytes],
        longname: bytes | None,
        longlink: bytes | None,
    ) -> Entry:
        number = self._number
        entry = Entry()
        kind = _KINDS.get(fields[7])
        if kind is None:
            raise self._error(f"type {fields[7]!r} is not supported")
        if self._globals:
            records = {**self._globals, **records}
        name = _string(fields[0])
        posix = block[257:263] == b"ustar\0"
        if posix and longname is None:
            prefix = fields[14]
            if block[508:512] == b"tar\0":
                prefix = prefix[:131]  # star has its times in the rest
            if prefix[0]:
                name = _string(prefix) + b"/" + name
        if longname is not None:
            name = longname
        entry.name = name
        entry.linkname = _string(fields[8]) if longlink is None else longlink
        who = block[100:124]
        known = self._who.get(who)
        if known is None:
            if len(self._who) > MOST_KNOWN:
                self._who.clear()
            known = number(fields[1], "mode") & 0o7777, number(fields[2], "uid"), number(fields[3], "gid")
            self._who[who] = known
        entry.mode, entry.uid, entry.gid = known
        entry.stored = entry.size = number(fields[4], "size")
        entry.mtime = number(fields[5], "mtime") * 1_000_000_000
        entry.atime = None
        entry.uname, entry.gname = fields[10], fields[11]
        if kind in (CHAR, BLOCK_DEVICE):
            entry.major = number(fields[12], "devmajor")
            entry.minor = number(fields[13], "devminor")
        else:
            entry.major = entry.minor = 0
        entry.xattrs = {}
        entry.acls = NO_ACLS
        entry.sparse = None
        if records:
            self._apply(entry, records)
        if kind == FILE and fields[7] == b"\0" and entry.name.endswith(b"/"):
            kind = DIRECTORY  # v7 knew no type for them
        entry.kind = kind
        if kind != FILE:
            # The size of others is no data that follows: so do the programs that layers are made for.
            entry.stored = entry.size = 0
        if entry.size < 0:
            raise self._error(f"size {entry.size} is negative")
        stored = entry.stored
        if fields[7] == b"S":
            self._old_sparse(entry, block)
        elif records and kind == FILE and any(key.startswith("GNU.sparse.") for key in records):
            stored = self._pax_sparse(entry, records, regions)
        if records and (
            b"\0" in entry.name or b"\0" in entry.linkname or any("\0" in name for name in entry.xattrs)
        ):
            raise self._error("a name holds a NUL")
        entry.offset = self.position
        self._left = entry.stored
        self._padding = -stored % BLOCK
        self._claimed += entry.size
        if self._claimed > self._limits.total:
            raise TooLarge(self._where, f"its files have more than {self._limits.total} bytes")
        return entry

    def _verify_checksum(self, block: bytes, field: bytes) -> None:
        try:
            stored = int(field.strip(_SPACES) or b"0", 8)
        except ValueError:
            stored = -1
        # Half of adler32 is 1 + the sum, modulo more than what 512 bytes below 128 can come to.
        total = (adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)
        computed = total - sum(field) + 8 * 32
        if stored != computed:
            signed = sum(byte - 256 for byte in block if byte > 127) + sum(
                byte for byte in block if byte < 128
            )
            signed -= sum(byte - 256 if byte > 127 else byte for byte in field) - 8 * 32
            if stored != signed:
                raise self._error("the checksum of the header is wrong: this is not a tar stream")

    def _number(self, field: bytes, what: str) -> int:
        """Octal digits, or a number to the base 256 as GNU and star write it."""
        first = field[0]
        if first & 0x80:
            value = int.from_bytes(field, "big") & ~(0x80 << 8 * (len(field) - 1))
            if first & 0x40:
                value -= 1 << (8 * len(field) - 1)
            if not -(1 << 63) <= value < 1 << 63:
                raise self._error(f"{what} is out of range")
            return value
        digits = field.partition(b"\0")[0].strip(_SPACES)
        if not digits:
            return 0
        try:
            if digits.isdigit():
                return int(digits, 8)
        except ValueError:
            pass
        raise self._error(f"{what} {digits!r} is not an octal number")

    def _end(self) -> None:
        """The archive's end was reached: read on to the stream's end, which the DiffID covers."""
        second = self._take(BLOCK)
        if second and second != ZERO[: len(second)]:
            raise self._error("a header follows a block of zeros")
        trailing = 0
        while True:
            trailing += len(self._buffer) - self._at
            if trailing > self._limits.trailing:
                raise TooLarge(self._where, f"has more than {self._limits.trailing} bytes behind its end")
            self._at = len(self._buffer)
            if not self._fill():
                return

    # PAX

    def _read_records(self, data: bytes, into: dict[str, bytes], regions: list[bytes]) -> None:
        """Records "LENGTH KEY=VALUE\\n"; a value that is empty takes an earlier one away."""
        at = 0
        while at < len(data):
            blank = data.find(b" ", at, at + 12)
            digits = data[at:blank]
            if blank < 0 or not digits.isdigit():
                raise self._error("a PAX record has no length")
            end = at + int(digits)
            key, equals, value = data[blank + 1 : end - 1].partition(b"=")
            if end > len(data) or end <= blank + 1 or data[end - 1 : end] != b"\n" or not equals or not key:
                raise self._error("a PAX record is malformed")
            name = key.decode("utf-8", "surrogateescape")
            at = end
            if name in ("GNU.sparse.offset", "GNU.sparse.numbytes"):
                regions.append(value)
                if len(regions) > 2 * self._limits.sparse:
                    raise TooLarge(self._where, "a sparse file has too many regions")
            if value or name.startswith(XATTR):
                into[name] = value
            else:
                into.pop(name, None)

    def _apply(self, entry: Entry, records: dict[str, bytes]) -> None:
        for name, value in records.items():
            if name == "path":
                entry.name = value
            elif name == "linkpath":
                entry.linkname = value
            elif name == "size":
                entry.stored = entry.size = self._decimal(value, name)
            elif name == "uid":
                entry.uid = self._decimal(value, name)
            elif name == "gid":
                entry.gid = self._decimal(value, name)
            elif name == "mtime":
                entry.mtime = self._time(value, name)
            elif name == "atime":
                entry.atime = self._time(value, name)
            elif name.startswith(XATTR):
                entry.xattrs[name[len(XATTR) :]] = value
            elif name.startswith(LIBARCHIVE_XATTR):
                self._libarchive_xattr(entry, name[len(LIBARCHIVE_XATTR) :], value)
            elif name in ACLS:
                from oci_image.acl import from_text

                acl = from_text(value, f"{self._where}: {name}")
                if acl is None:
                    entry.acls = {**entry.acls, name: value}
                else:
                    entry.xattrs.setdefault(ACLS[name], acl)

    def _libarchive_xattr(self, entry: Entry, name: str, value: bytes) -> None:
        from binascii import Error, a2b_base64
        from urllib.parse import unquote

        try:
            entry.xattrs.setdefault(unquote(name), a2b_base64(value + b"=" * (-len(value) % 4)))
        except Error:
            raise self._error(f"{LIBARCHIVE_XATTR}{name} is not base64") from None

    def _decimal(self, value: bytes, what: str) -> int:
        if not value.isdigit() or len(value) > 19:
            raise self._error(f"{what} {value[:40]!r} is not a number")
        return int(value)

    def _time(self, value: bytes, what: str) -> int:
        match = _DECIMAL.fullmatch(value.decode("ascii", "replace"))
        if not match:
            raise self._error(f"{what} {value[:40]!r} is not a time")
        nanoseconds = int(match[2]) * 1_000_000_000 + int(((match[3] or "") + "000000000")[:9])
        return -nanoseconds if match[1] else nanoseconds

    # Sparse files

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """Regions in the header and in blocks that follow it."""
        regions: list[tuple[int, int]] = []
        area, count, more = block[386:482], 4, block[482]
        while True:
            for i in range(count):
                offset, length = area[24 * i : 24 * i + 12], area[24 * i + 12 : 24 * i + 24]
                if not length.strip(_SPACES):
                    break
                regions.append((self._number(offset, "sparse offset"), self._number(length, "sparse length")))
            if not more:
                break
            if len(regions) > self._limits.sparse:
                raise TooLarge(self._where, "a sparse file has too many regions")
            area = self._block()
            count, more = 21, area[504]
        entry.size = self._number(block[483:495], "real size")
        self._set_sparse(entry, regions)

    def _pax_sparse(self, entry: Entry, records: dict[str, bytes], regions: list[bytes]) -> int:
        """GNU.sparse of the versions 0.0, 0.1 and 1.0; the bytes of data, the map included."""
        stored = entry.stored
        if "GNU.sparse.name" in records:
            entry.name = records["GNU.sparse.name"]
        size = records.get("GNU.sparse.realsize", records.get("GNU.sparse.size"))
        if size is not None:
            entry.size = self._decimal(size, "GNU.sparse.size")
        if records.get("GNU.sparse.major") == b"1":
            self._set_sparse(entry, self._map_in_data(entry))
            return stored
        if "GNU.sparse.map" in records:
            regions = records["GNU.sparse.map"].split(b",")
        if not regions:
            if size is not None or "GNU.sparse.major" in records:
                raise self._error("a sparse file has no map")
            return stored
        numbers = [self._decimal(word, "a sparse region") for word in regions]
        if len(numbers) % 2:
            raise self._error("a region of a sparse file has no length")
        self._set_sparse(entry, list(zip(numbers[::2], numbers[1::2], strict=True)))
        return stored

    def _map_in_data(self, entry: Entry) -> list[tuple[int, int]]:
        """Version 1.0: decimal numbers, one a line, in whole blocks before the data."""
        text = b""
        wanted = 1
        numbers: list[int] = []
        while len(numbers) < wanted:
            if entry.stored < BLOCK:
                raise self._error("the map of a sparse file is cut off")
            lines = (text + self._block()).split(b"\n")
            entry.stored -= BLOCK
            text = lines.pop()
            for line in lines:
                if len(numbers) == wanted:
                    break
                numbers.append(self._decimal(line, "a sparse region"))
                if len(numbers) == 1:
                    wanted = 1 + 2 * numbers[0]
                    if numbers[0] > self._limits.sparse:
                        raise TooLarge(self._where, "a sparse file has too many regions")
            if len(text) > 20 and len(numbers) < wanted:
                raise self._error("the map of a sparse file is malformed")
        return list(zip(numbers[1::2], numbers[2::2], strict=True))

    def _set_sparse(self, entry: Entry, regions: list[tuple[int, int]]) -> None:
        if len(regions) > self._limits.sparse:
            raise TooLarge(self._where, "a sparse file has too many regions")
        end = 0
        for offset, length in regions:
            if offset < end or length < 0:
                raise self._error("the regions of a sparse file overlap")
            end = offset + length
        if end > entry.size:
            raise self._error("a region of a sparse file lies behind its end")
        if sum(length for _, length in regions) != entry.stored:
            raise self._error("the regions of a sparse file are not as long as its data")
        entry.sparse = regions


def _string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]

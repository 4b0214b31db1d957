"""Tar streams as this program writes them: ustar, PAX where that has no room; always the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.tarstream import BLOCK, FILE, XATTR

if TYPE_CHECKING:
    from collections.abc import Mapping

END = bytes(2 * BLOCK)
_SECOND = 1_000_000_000


def header(
    name: bytes,
    size: int = 0,
    *,
    kind: bytes = FILE,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 0,
    linkname: bytes = b"",
    major: int = 0,
    minor: int = 0,
    xattrs: Mapping[str, bytes] | None = None,
    acls: Mapping[str, bytes] | None = None,
    sparse_size: int | None = None,
) -> bytes:
    """The blocks before the content. Follow it with size bytes and padding(size).

    mtime in nanoseconds; acls are texts by the keys of their records.
    sparse_size: the file has holes and this size with them; size bytes are its sparse_map and data.
    """
    records: list[tuple[bytes, bytes]] = []
    if sparse_size is not None:  # GNU tar manual, "PAX Format, Version 1.0"
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", name)]
        records.append((b"GNU.sparse.realsize", b"%d" % sparse_size))
    if len(name) > 100 or not name.isascii():
        records.append((b"path", name))
    if len(linkname) > 100 or not linkname.isascii():
        records.append((b"linkpath", linkname))
    seconds, nanoseconds = divmod(mtime, _SECOND)
    if nanoseconds or not 0 <= seconds < 1 << 33:
        records.append((b"mtime", _time(mtime)))
    for what, value, most in (
        (b"uid", uid, 0o7777777),
        (b"gid", gid, 0o7777777),
        (b"size", size, (1 << 33) - 1),
    ):
        if value > most:
            records.append((what, b"%d" % value))
    for key in sorted(xattrs or ()):
        records.append(((XATTR + key).encode("utf-8", "surrogateescape"), (xattrs or {})[key]))
    records += [(key.encode(), text) for key, text in sorted((acls or {}).items())]
    extended = b""
    if records:
        content = b"".join(_record(key, value) for key, value in records)
        base = name.rstrip(b"/").rpartition(b"/")[2][:80]
        extended = (
            _ustar(b"PaxHeaders/" + base, len(content), b"x", 0o644, 0, 0, 0)
            + content
            + padding(len(content))
        )
    return extended + _ustar(name, size, kind, mode, uid, gid, seconds, linkname, major, minor)


def sparse_map(regions: list[tuple[int, int]], size: int) -> bytes:
    """Where the data of a file with holes lies, in whole blocks; the last region is empty, at its end."""
    numbers = [len(regions) + 1, *(number for region in regions for number in region), size, 0]
    text = b"".join(b"%d\n" % number for number in numbers)
    return text + padding(len(text))


def padding(size: int) -> bytes:
    """The zeros that follow size bytes of content."""
    return bytes(-size % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" %s=%s\n" % (key, value)
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _time(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    seconds, rest = divmod(abs(nanoseconds), _SECOND)
    fraction = b".%09d" % rest if rest else b""
    return sign + b"%d" % seconds + fraction.rstrip(b"0")


def _octal(value: int, width: int) -> bytes:
    """Digits and a NUL; 0 for what does not fit, which a PAX record says then."""
    return b"%0*o\0" % (width - 1, value if 0 <= value < 8 ** (width - 1) else 0)


def _ustar(
    name: bytes,
    size: int,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    mtime: int,
    linkname: bytes = b"",
    major: int = 0,
    minor: int = 0,
) -> bytes:
    block = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            _octal(mode, 8),
            _octal(uid, 8),
            _octal(gid, 8),
            _octal(size, 12),
            _octal(mtime, 12),
            b"        ",
            kind,
            linkname[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            _octal(major, 8),
            _octal(minor, 8),
            bytes(167),
        )
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]

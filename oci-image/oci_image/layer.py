"""A layer as its changes: entries with clean names, whiteouts told apart, the DiffID compared.

layer.md. Nothing here touches a file system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from oci_image.digest import check_digest
from oci_image.errors import ImageError, printable
from oci_image.inflate import Pipeline, inflated
from oci_image.tarstream import DIRECTORY, FILE, HARDLINK, LIMITS, TarReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_image.digest import Reader
    from oci_image.tarstream import Entry, Limits

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

MAX_DEPTH = 512  # directories in a path: names have at most 4095 bytes anyway
ADD, REMOVE, CLEAR = "add", "remove", "clear"
SECTION = "layer.md, Whiteouts"


class Change(NamedTuple):
    """What one entry asks for: ADD it at path, REMOVE path, or CLEAR the directory path of lower layers.

    path has no `.`, `..`, leading or trailing slash; b"" is the root. target is the path that a
    hardlink leads to, from the root as well.
    """

    what: str
    path: bytes
    entry: Entry
    target: bytes = b""


class Layer:
    """The changes of one layer, read from its blob; use it in a with statement.

    reader gives the (compressed) blob and is closed at the end. It is read to its end even where
    the tar stream ends before, so that digest and DiffID are always compared: what was applied is
    worth nothing before changes() has ended without an error.
    """

    def __init__(self, reader: Reader, diff_id: str, where: str, limits: Limits = LIMITS) -> None:
        self._where = where
        self._diff_id = diff_id
        algorithm, _ = check_digest(diff_id, f"{where}: DiffID")
        try:
            plain = inflated(reader, where, limits)
        except BaseException:
            reader.close()
            raise
        self._pipeline = Pipeline(plain, algorithm)
        self._tar = TarReader(self._pipeline, where, limits)

    def changes(self) -> Iterator[Change]:
        """Every change in the order of the stream. Raises ImageError, also when the DiffID differs."""
        while entry := self._tar.next():
            yield change_of(entry, self._where)
        while self._pipeline.chunk():
            pass
        found = self._pipeline.digest()
        if found != self._diff_id:
            raise ImageError(self._where, f"its uncompressed content is {found}, not DiffID {self._diff_id}")

    def data(self) -> Iterator[memoryview]:
        """Content of the current change's entry."""
        return self._tar.data()

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.close()


def change_of(entry: Entry, where: str) -> Change:
    """What an entry of a layer asks for. Raises ImageError for what makes no sense."""
    path = clean(entry.name, where)
    if path and entry.kind != HARDLINK and WHITEOUT not in path:
        return Change(ADD, path, entry)  # nearly all
    parent, _, name = path.rpartition(b"/")
    if not name.startswith(WHITEOUT):
        if WHITEOUT in path and any(part.startswith(WHITEOUT) for part in parent.split(b"/")):
            raise ImageError(where, f"{show(path)}: lies in a directory with the name of a whiteout", SECTION)
        target = clean(entry.linkname, where) if entry.kind == HARDLINK else b""
        if not path and entry.kind != DIRECTORY:
            raise ImageError(where, "the root would not be a directory (CVE-2021-29136)")
        if target.rpartition(b"/")[2].startswith(WHITEOUT):
            raise ImageError(where, f"{show(path)}: is a hardlink to a whiteout", SECTION)
        return Change(ADD, path, entry, target)
    if entry.kind not in (FILE, HARDLINK):  # aufs made them hardlinks of one file
        raise ImageError(where, f"{show(path)}: is a whiteout and no file", SECTION)
    if any(part.startswith(WHITEOUT) for part in parent.split(b"/")):
        raise ImageError(where, f"{show(path)}: lies in a directory with the name of a whiteout", SECTION)
    if name == OPAQUE:
        return Change(CLEAR, parent, entry)
    hidden = name[len(WHITEOUT) :]
    if hidden in (b"", b".", b"..") or hidden.startswith(WHITEOUT):
        raise ImageError(where, f"{show(path)}: is a whiteout of nothing that can be", SECTION)
    return Change(REMOVE, parent + b"/" + hidden if parent else hidden, entry)


def clean(name: bytes, where: str) -> bytes:
    """A name of a tar stream as a path below the root; absolute names begin at the root too.

    Raises ImageError for one that leads above it.
    """
    if name.startswith(b"./"):
        name = name[2:]
    name = name.rstrip(b"/")
    # Nearly all names are clean already.
    if name.count(b"/") > MAX_DEPTH:
        raise ImageError(where, f"{show(name)}: is more than {MAX_DEPTH} directories deep")
    if name and not (b"//" in name or b"/." in name or name[0] in b"/."):
        return name
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise ImageError(where, f"{show(name)}: leads out of the root")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def show(path: bytes) -> str:
    """A path for people: printable, not too long."""
    text = printable(path.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 120 else f"{text[:60]}…{text[-50:]}"

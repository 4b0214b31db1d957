"""An image's root file system in a new directory: all or nothing."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image.digest import CHUNK
from oci_image.errors import ImageError
from oci_image.extract import Extractor, Policy
from oci_image.layer import Layer, change_of
from oci_image.removal import remove_tree
from oci_image.tarstream import DIRECTORY, LIMITS, TarReader
from oci_image.transfer import read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

    from oci_image.descriptor import Descriptor
    from oci_image.layer import Change
    from oci_image.tarstream import Limits
    from oci_image.transports import Source

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def new_directory(path: str) -> Iterator[tuple[str, int]]:
    """(name, fd) of a directory that becomes path when the block ends well, and is removed otherwise.

    path must not exist, or be an empty directory. Raises ImageError.
    """
    path = path.rstrip("/") or "/"
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isdir(path) or os.listdir(path)):
        raise ImageError(path, "exists and is not an empty directory")
    parent_path, name = os.path.split(os.path.abspath(path))
    try:
        parent = os.open(parent_path, _OPEN)
    except FileNotFoundError:
        raise ImageError(parent_path, "does not exist") from None
    try:
        temporary = f".{name}.{os.getpid()}.tmp"
        os.mkdir(temporary, 0o700, dir_fd=parent)
        try:
            fd = os.open(temporary, _OPEN | os.O_NOFOLLOW, dir_fd=parent)
            try:
                yield f"{parent_path}/{temporary}", fd
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            remove_tree(parent, temporary)
            raise
    finally:
        os.close(parent)


def apply_image(
    source: Source,
    descriptor: Descriptor,
    root_fd: int,
    policy: Policy = Policy(),  # noqa: B008
    limits: Limits = LIMITS,
) -> tuple[dict[str, Any], dict[str, int]]:
    """Apply all layers of the image (its manifest's descriptor) to the directory root_fd.

    Gives (image config, what was left out and how often: Extractor.left_out).
    """
    _, manifest = read_document(source, descriptor)
    config = read_config(source, manifest)
    layers = documents.check_image(manifest, config, f"{source.where}: {descriptor['digest']}")
    extractor = Extractor(root_fd, policy)
    os.fchmod(root_fd, 0o755)
    try:
        for blob, diff_id in layers:
            where = f"layer {blob['digest']}"
            with Layer(source.open_blob(blob), diff_id, where, limits) as layer:
                extractor.apply(layer, where)
        extractor.finish()
    finally:
        extractor.close()
    return config, extractor.left_out


class _Stream:
    """A tar stream of our own making, in the place of a layer."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file = file
        self._where = where
        self._tar = TarReader(self, where)

    def chunk(self) -> bytes:
        return self._file.read(CHUNK)

    def changes(self) -> Iterator[Change]:
        while entry := self._tar.next():
            yield change_of(entry, self._where)

    def data(self) -> Iterator[memoryview]:
        return self._tar.data()


def begins_with_directory(file: BinaryIO, where: str) -> bool:
    """Is the first entry of a tar stream a directory? The file is at its beginning again."""
    entry = TarReader(_Stream(file, where), where).next()
    file.seek(0)
    return entry is not None and entry.kind == DIRECTORY


def apply_stream(file: BinaryIO, where: str, root_fd: int, policy: Policy) -> dict[str, int]:
    """Extract a tar stream into the directory root_fd; what was left out. Whiteouts are what they are."""
    extractor = Extractor(root_fd, policy)
    os.fchmod(root_fd, 0o755)
    try:
        extractor.apply(_Stream(file, where), where)
        extractor.finish()
    finally:
        extractor.close()
    return extractor.left_out

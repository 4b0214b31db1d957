"""Where images come from and go to, by the words that skopeo uses: TRANSPORT:PATH[:NAME]."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from oci_image.errors import ImageError

if TYPE_CHECKING:
    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader

OCI, OCI_ARCHIVE, DOCKER_ARCHIVE, DIR = "oci", "oci-archive", "docker-archive", "dir"
TRANSPORTS = (OCI, OCI_ARCHIVE, DOCKER_ARCHIVE, DIR)


class Location(NamedTuple):
    """A transport, the path of a file or directory, and the name of an image there ("": none given)."""

    transport: str
    path: str
    name: str = ""

    def __str__(self) -> str:
        return ":".join(part for part in self if part)


class Image(NamedTuple):
    """An image of a source: its names, fullest first, and the descriptor of its manifest or index."""

    names: tuple[str, ...]
    descriptor: Descriptor


class Source(Protocol):
    """Where images are read. Readers verify what they give (digest and size)."""

    where: str

    def images(self) -> list[Image]: ...
    def find(self, name: str) -> Descriptor:
        """The image of a name, with "" the only one. Raises ImageError."""

    def open_blob(self, descriptor: Descriptor) -> Reader: ...
    def close(self) -> None: ...


class Sink(Protocol):
    """Where images are written; nothing can be seen there before commit()."""

    docker: bool  # may hold manifests of docker's media types
    indexes: bool  # may hold images of several platforms

    def has(self, descriptor: Descriptor) -> bool: ...
    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None: ...
    def put_document(self, descriptor: Descriptor, data: bytes) -> None: ...
    def add(self, names: tuple[str, ...], descriptor: Descriptor) -> None:
        """An image, whose blobs were all put."""

    def commit(self) -> None: ...
    def close(self) -> None:
        """Without commit(): as if nothing had been put."""


def parse_location(text: str) -> Location | None:
    """The location that text names; None when it does not begin with a transport."""
    transport, colon, rest = text.partition(":")
    if not colon or transport not in TRANSPORTS:
        return None
    path, name = (rest, "") if transport == DIR else rest.partition(":")[::2]
    if not path:
        raise ImageError(text, "has no path")
    return Location(transport, path, name)


def open_source(location: Location) -> Source:
    """The source at a location; close it."""
    if location.transport == OCI:
        from oci_image.transports.layout import LayoutSource

        return LayoutSource(location.path)
    if location.transport == DIR:
        from oci_image.transports.directory import DirectorySource

        return DirectorySource(location.path)
    from oci_image.transports.archive import open_archive

    return open_archive(location.path, docker=location.transport == DOCKER_ARCHIVE)


def open_sink(location: Location) -> Sink:
    """The sink at a location; close it."""
    if location.transport == OCI:
        from oci_image.transports.layout import LayoutSink

        return LayoutSink(location.path)
    if location.transport == DIR:
        from oci_image.transports.directory import DirectorySink

        return DirectorySink(location.path)
    from oci_image.transports.archive_write import ArchiveSink

    return ArchiveSink(location.path, docker=location.transport == DOCKER_ARCHIVE)

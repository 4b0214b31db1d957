"""dir:DIR: one image in a directory as skopeo writes it: manifest.json, version, blobs by their digits.

The manifests of an index are named DIGITS.manifest.json there. Signatures are not copied.
"""

from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image.descriptor import INDEXES, MANIFESTS, MAX_DOCUMENT
from oci_image.digest import CHUNK, Verified, check_digest
from oci_image.errors import ImageError, NotInStore, TooLarge
from oci_image.newfile import temporary
from oci_image.store import FdReader
from oci_image.transports import Image

if TYPE_CHECKING:
    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader

MANIFEST = "manifest.json"
VERSION = "version"
VERSION_TEXT = "Directory Transport Version: 1.1\n"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class DirectorySource:
    """The image of a directory; it has no name."""

    def __init__(self, path: str) -> None:
        self.where = path
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise ImageError(path, "is not a directory") from None
        try:
            self._top = self._read_top()
        except BaseException:
            self.close()
            raise

    def _read_top(self) -> Descriptor:
        where = f"{self.where}/{MANIFEST}"
        try:
            fd = os.open(MANIFEST, _READ, dir_fd=self._fd)
        except FileNotFoundError:
            raise ImageError(self.where, f"has no {MANIFEST}: it holds no image") from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(where, "is not a regular file")
            if status.st_size > MAX_DOCUMENT:
                raise TooLarge(where, f"has {status.st_size} bytes, more than {MAX_DOCUMENT}")
            data = b"".join(iter(lambda: os.read(fd, CHUNK), b""))
        finally:
            os.close(fd)
        document = documents.parse(data, where)
        media_type = document.get("mediaType")
        if not isinstance(media_type, str):  # image-spec: it may be absent
            media_type = documents.OCI_INDEX if "manifests" in document else documents.OCI_MANIFEST
        documents.check_document(data, media_type, where)
        return documents.describe(data, media_type)

    def images(self) -> list[Image]:
        return [Image((), self._top)]

    def find(self, name: str) -> Descriptor:
        if name:
            raise NotInStore(f"{self.where}:{name}", "images in a directory have no name")
        return self._top

    def open_blob(self, descriptor: Descriptor) -> Reader:
        _, encoded = check_digest(descriptor["digest"], "descriptor.digest")
        where = f"{self.where}: {descriptor['digest']}"
        names = [encoded]
        if descriptor["digest"] == self._top["digest"]:
            names = [MANIFEST]
        elif descriptor["mediaType"] in INDEXES | MANIFESTS:
            names.insert(0, f"{encoded}.{MANIFEST}")
        for name in names:
            try:
                fd = os.open(name, _READ, dir_fd=self._fd)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                os.close(fd)
                raise ImageError(where, "is not a regular file")
            return Verified(FdReader(fd), descriptor["digest"], descriptor["size"], where)
        raise NotInStore(where, "the blob is missing")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class DirectorySink:
    """A directory that is made under another name and renamed when it is whole."""

    docker = True
    indexes = True

    def __init__(self, path: str) -> None:
        self._path = path.rstrip("/") or "/"
        if os.path.lexists(self._path) and (not os.path.isdir(self._path) or os.listdir(self._path)):
            raise ImageError(path, "exists and is not an empty directory")
        self._temporary = temporary(self._path)
        os.mkdir(self._temporary)
        self._sizes: dict[str, int] = {}
        self._documents: dict[str, bytes] = {}
        self._top: Descriptor | None = None

    def has(self, descriptor: Descriptor) -> bool:
        return self._sizes.get(descriptor["digest"]) == descriptor["size"]

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        _, encoded = check_digest(descriptor["digest"], "descriptor.digest")
        with open(f"{self._temporary}/{encoded}", "wb") as file:
            while data := reader.read(CHUNK):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._sizes[descriptor["digest"]] = descriptor["size"]

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._documents[descriptor["digest"]] = data
        self._sizes[descriptor["digest"]] = descriptor["size"]

    def add(self, names: tuple[str, ...], descriptor: Descriptor) -> None:
        if self._top is not None:
            raise ImageError(self._path, "can hold one image only")
        self._top = descriptor

    def commit(self) -> None:
        if self._top is None:
            raise ImageError(self._path, "no image was added")
        files = {f"{digest.partition(':')[2]}.{MANIFEST}": data for digest, data in self._documents.items()}
        files[MANIFEST] = files.pop(f"{self._top['digest'].partition(':')[2]}.{MANIFEST}")
        for name, data in {**files, VERSION: VERSION_TEXT.encode()}.items():
            with open(f"{self._temporary}/{name}", "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        os.rename(self._temporary, self._path)
        self._temporary = ""

    def close(self) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = ""

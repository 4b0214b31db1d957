"""oci-archive:FILE and docker-archive:FILE as sinks: an image layout in a tar file.

A docker archive has manifest.json besides, as `docker save` has written it since version 25: older
versions of docker, podman and skopeo read that, newer ones the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image import reference, tarwrite
from oci_image.descriptor import INDEXES, OCI_INDEX, REF_NAME
from oci_image.digest import CHUNK
from oci_image.errors import ImageError
from oci_image.newfile import NewFile
from oci_image.store import CONTAINERD_NAME, INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION, blob_path
from oci_image.tarstream import DIRECTORY

if TYPE_CHECKING:
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader


class ArchiveSink:
    """A tar file that is there when it is whole; "-" is stdout."""

    def __init__(self, path: str, docker: bool) -> None:
        self.docker = docker
        self.indexes = not docker
        self._path = path
        self._sizes: dict[str, int] = {}
        self._documents: dict[str, bytes] = {}
        self._entries: list[dict[str, Any]] = []
        self._manifests: list[dict[str, Any]] = []
        self._new = NewFile(path)
        self._file = self._new.file
        for name in (b"blobs/", b"blobs/sha256/"):
            self._file.write(tarwrite.header(name, kind=DIRECTORY, mode=0o755))

    def has(self, descriptor: Descriptor) -> bool:
        return self._sizes.get(descriptor["digest"]) == descriptor["size"]

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        size = descriptor["size"]
        self._file.write(tarwrite.header(blob_path(descriptor["digest"]).encode(), size))
        while data := reader.read(CHUNK):
            self._file.write(data)
        self._file.write(tarwrite.padding(size))
        self._sizes[descriptor["digest"]] = size

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._write(blob_path(descriptor["digest"]), data)
        self._sizes[descriptor["digest"]] = descriptor["size"]
        self._documents[descriptor["digest"]] = data

    def _write(self, name: str, data: bytes) -> None:
        self._file.write(tarwrite.header(name.encode(), len(data)) + data + tarwrite.padding(len(data)))

    def add(self, names: tuple[str, ...], descriptor: Descriptor) -> None:
        plain = documents.plain(descriptor)
        if not self.docker:
            entries = [{**plain, "annotations": {REF_NAME: name}} for name in names]
            self._manifests += entries or [{**plain}]
            return
        if descriptor["mediaType"] in INDEXES:
            raise ImageError(self._path, "an archive for docker holds images of one platform each")
        manifest = documents.parse(self._documents[descriptor["digest"]], descriptor["digest"])
        tags = [reference.parse(name).with_default_tag() for name in names]
        if any(tag.digest for tag in tags):
            raise ImageError(self._path, "a name with a digest cannot stand in an archive for docker")
        for tag in tags:
            annotations = {CONTAINERD_NAME: str(tag), REF_NAME: tag.tag}
            self._manifests.append({**plain, "annotations": annotations})
        if not tags:
            self._manifests.append({**plain})
        self._entries.append(
            {
                "Config": blob_path(manifest["config"]["digest"]),
                "RepoTags": [tag.familiar for tag in tags] or None,
                "Layers": [blob_path(layer["digest"]) for layer in manifest["layers"]],
            }
        )

    def commit(self) -> None:
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._manifests}
        self._write(INDEX_FILE, documents.encode(index))
        if self.docker:
            self._write("manifest.json", documents.encode(self._entries))
        self._write(LAYOUT_FILE, documents.encode({"imageLayoutVersion": LAYOUT_VERSION}))
        self._file.write(tarwrite.END)
        self._new.commit()

    def close(self) -> None:
        self._new.close()

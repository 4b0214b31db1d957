"""oci:DIR[:NAME]: an image layout, as the store is one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from oci_image.store import Store, names_of
from oci_image.transports import Image

if TYPE_CHECKING:
    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader


class LayoutSource:
    """A layout that is only read; gc of another process waits meanwhile."""

    def __init__(self, path: str) -> None:
        self.where = path
        self._open = ExitStack()
        self._store = self._open.enter_context(Store.open(path))
        self._open.enter_context(self._store.importing())

    def images(self) -> list[Image]:
        return [Image(tuple(names_of(one)), one) for _, one in self._store.images()]

    def find(self, name: str) -> Descriptor:
        return self._store.find(name)

    def open_blob(self, descriptor: Descriptor) -> Reader:
        return self._store.open_blob(descriptor)

    def close(self) -> None:
        self._open.close()


class LayoutSink:
    """A layout that is written to. skopeo and umoci read OCI media types alone from one."""

    docker = False
    indexes = True

    def __init__(self, path: str) -> None:
        self._open = ExitStack()
        self._store = self._open.enter_context(Store.create(path))
        self._session = self._open.enter_context(self._store.importing())
        self._named: list[tuple[str, Descriptor]] = []

    def has(self, descriptor: Descriptor) -> bool:
        return self._store.has(descriptor)

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        self._session.put(descriptor, reader)

    def put_document(self, descriptor: Descriptor, data: bytes) -> None:
        self._session.put_document(descriptor, data)

    def add(self, names: tuple[str, ...], descriptor: Descriptor) -> None:
        self._named += [(name, descriptor) for name in names or ("",)]

    def commit(self) -> None:
        for name, descriptor in self._named:
            self._session.set_name(name, descriptor)

    def close(self) -> None:
        self._open.close()

"""Unpacked layers, each in a directory of its own, shared by all bundles that stand on them.

A directory is named by the ChainID of its layer (config.md, Layer ChainID), so it is made once
for all images with the same layers below. It is made under another name and renamed when it is
whole. How it is kept is the driver's business (drivers.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image.descriptor import INDEXES, MANIFESTS
from oci_image.drivers import DRIVERS, TREE, find
from oci_image.errors import ImageError
from oci_image.extract import Extractor, Policy
from oci_image.layer import Layer
from oci_image.transfer import read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oci_image.descriptor import Descriptor
    from oci_image.drivers import Driver
    from oci_image.transports import Source

SINGLE = "-rootless"  # behind a driver's name: layers whose files all belong to one user
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The ChainID of each layer, lowest first, as hexadecimal digits."""
    chains: list[str] = []
    for diff_id in diff_ids:
        text = f"sha256:{chains[-1]} {diff_id}" if chains else diff_id
        digits = hashlib.sha256(text.encode()).hexdigest() if chains else diff_id.partition(":")[2]
        chains.append(digits)
    return chains


class Snapshots:
    """The snapshots of one driver below a directory, which is made. close() it.

    single: all files belong to the one user who is without root.
    """

    def __init__(self, directory: str, driver: Driver | str, single: bool = False) -> None:
        self.driver = find(driver) if isinstance(driver, str) else driver
        self._policy = Policy(single)
        self.path = f"{os.path.abspath(directory)}/{self.driver.name}{SINGLE if single else ''}"
        os.makedirs(self.path, mode=0o700, exist_ok=True)  # what is setuid in there is for containers
        self._fd = os.open(self.path, _DIRECTORY)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Snapshots:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def using(self) -> Iterator[None]:
        """Keep `collect` away, also that of other processes."""
        fd = os.open(".", _DIRECTORY, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    def trees(self, chains: Iterable[str]) -> list[str]:
        """The directories of layers."""
        return [tree_of(self.path, chain) for chain in chains]

    def prepare(self, source: Source, descriptor: Descriptor) -> list[str]:
        """ChainIDs of the layers of an image, lowest first; what is missing is unpacked. Call it `using`."""
        _, manifest = read_document(source, descriptor)
        config = read_config(source, manifest)
        layers = documents.check_image(manifest, config, f"{source.where}: {descriptor['digest']}")
        chains = chain_ids(diff_id for _, diff_id in layers)
        for i, (blob, diff_id) in enumerate(layers):
            if not os.path.isdir(tree_of(self.path, chains[i])):
                self._make(source, blob, diff_id, chains[: i + 1])
        return chains

    def _make(self, source: Source, blob: Descriptor, diff_id: str, chains: list[str]) -> None:
        *below, chain = chains
        temporary = f".{chain}.{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(temporary, 0o700, dir_fd=self._fd)
        try:
            with self.driver.layer(f"{self.path}/{temporary}", self.trees(below)) as root_fd:
                self._apply(source, blob, diff_id, root_fd)
            try:
                os.rename(temporary, chain, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except OSError:
                if not os.path.isdir(tree_of(self.path, chain)):
                    raise
                self.driver.remove(self._fd, temporary)  # another process was faster, with the same layer
        except BaseException:
            self.driver.remove(self._fd, temporary)
            raise

    def _apply(self, source: Source, blob: Descriptor, diff_id: str, root_fd: int) -> None:
        where = f"layer {blob['digest']}"
        extractor = Extractor(root_fd, self._policy)
        try:
            with Layer(source.open_blob(blob), diff_id, where) as layer:
                extractor.apply(layer, where)
            extractor.finish()
        finally:
            extractor.close()

    def collect(self, needed: Callable[[], set[str]]) -> int:
        """Remove the layers that are not needed, and what processes that died left; how many layers.

        needed is called when nobody is making a bundle any more.
        """
        fd = os.open(".", _DIRECTORY, dir_fd=self._fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            keep = needed()
            removed = 0
            for name in os.listdir(fd):
                if name in keep:
                    continue
                if not name.startswith("."):  # first out of the way, so that no half of it is ever used
                    os.rename(name, f".{name}", src_dir_fd=fd, dst_dir_fd=fd)
                    name = f".{name}"
                    removed += 1
                self.driver.remove(fd, name)
            return removed
        finally:
            os.close(fd)


def tree_of(path: str, chain: str) -> str:
    """The directory of a layer; path is Snapshots.path."""
    return f"{path}/{chain}/{TREE}"


def opened(directory: str) -> Iterator[Snapshots]:
    """The snapshots of every driver that has some below a directory, one after the other."""
    for name in DRIVERS:
        for single in (False, True):
            if os.path.isdir(f"{directory}/{name}{SINGLE if single else ''}"):
                with Snapshots(directory, name, single) as snapshots:
                    yield snapshots


def needed_chains(source: Source, images: Iterable[Descriptor]) -> set[str]:
    """ChainIDs of all layers of these images; what cannot be read needs none."""
    found: set[str] = set()
    queue = list(images)
    while queue:
        descriptor = queue.pop()
        if descriptor["mediaType"] not in INDEXES | MANIFESTS:
            continue
        try:
            _, document = read_document(source, descriptor)
            if descriptor["mediaType"] in INDEXES:
                queue += document["manifests"]
                continue
            config = read_config(source, document)
        except ImageError:
            continue
        found.update(chain_ids(config["rootfs"].get("diff_ids") or ()))
    return found

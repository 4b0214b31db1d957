"""Unpacked layers, each in a directory of its own, shared by all bundles that stand on them.

A directory is named by the ChainID of its layer (config.md, Layer ChainID), so it is made once
for all images with the same layers below. It is made under another name and renamed when it is
whole. Drivers:

overlay  a directory holds one layer's changes as the kernel's overlay keeps them. They are made by
         applying the layer to an overlay of the layers below, so what a layer means (a parent that
         is a symlink further down, a hardlink to a lower file, a whiteout) is seen as in a container.
vfs      a directory holds the whole tree up to its layer: needs no overlay, takes more space, which
         file systems with reflinks share.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image import overlay
from oci_image.copytree import copy_attributes, copy_tree
from oci_image.descriptor import INDEXES, MANIFESTS
from oci_image.errors import ImageError
from oci_image.extract import Extractor
from oci_image.layer import Layer
from oci_image.removal import remove_tree
from oci_image.transfer import read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from oci_image.descriptor import Descriptor
    from oci_image.transports import Source

OVERLAY, VFS = "overlay", "vfs"
DRIVERS = (OVERLAY, VFS)
NOT_BUILT = {
    "aufs": "no kernel has it any more",
    "devicemapper": "its users have left it for overlay",
    "zfs": "its tools are not part of Debian's main archive",
    "btrfs": "vfs shares extents on btrfs by reflinks",
    "fuse-overlayfs": "overlay needs root here; without root a bundle is a full copy",
}
TREE = "fs"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def check_driver(name: str) -> str:
    """name, if it is a driver. Raises ImageError saying what there is, and why others are not."""
    if name in DRIVERS:
        return name
    why = f" ({NOT_BUILT[name]})" if name in NOT_BUILT else ""
    raise ImageError("driver", f"{name} is not built{why}; there is {' and '.join(DRIVERS)}")


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The ChainID of each layer, lowest first, as hexadecimal digits."""
    chains: list[str] = []
    for diff_id in diff_ids:
        text = f"sha256:{chains[-1]} {diff_id}" if chains else diff_id
        digits = hashlib.sha256(text.encode()).hexdigest() if chains else diff_id.partition(":")[2]
        chains.append(digits)
    return chains


class Snapshots:
    """The snapshots of one driver below a directory, which is made. close() it."""

    def __init__(self, directory: str, driver: str) -> None:
        self.driver = check_driver(driver)
        self.path = f"{os.path.abspath(directory)}/{driver}"
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

    def tree(self, chain: str) -> str:
        """The directory of a layer."""
        return f"{self.path}/{chain}/{TREE}"

    def prepare(self, source: Source, descriptor: Descriptor) -> list[str]:
        """ChainIDs of the layers of an image, lowest first; what is missing is unpacked. Call it `using`."""
        _, manifest = read_document(source, descriptor)
        config = read_config(source, manifest)
        layers = documents.check_image(manifest, config, f"{source.where}: {descriptor['digest']}")
        chains = chain_ids(diff_id for _, diff_id in layers)
        for i, (blob, diff_id) in enumerate(layers):
            if not os.path.isdir(self.tree(chains[i])):
                self._make(source, blob, diff_id, chains[: i + 1])
        return chains

    def _make(self, source: Source, blob: Descriptor, diff_id: str, chains: list[str]) -> None:
        *below, chain = chains
        temporary = f".{chain}.{os.getpid()}-{os.urandom(4).hex()}"
        os.mkdir(temporary, 0o700, dir_fd=self._fd)
        try:
            for name in (TREE, "work"):
                os.mkdir(f"{temporary}/{name}", 0o755, dir_fd=self._fd)
            tree = f"{self.path}/{temporary}/{TREE}"
            mount_fd = -1
            if below and self.driver == OVERLAY:
                mount_fd = self.root(below, tree, f"{self.path}/{temporary}/work")
                root_fd = os.open(".", _DIRECTORY, dir_fd=mount_fd)
            else:
                root_fd = os.open(tree, _DIRECTORY)
            try:
                if below and self.driver == VFS:
                    self._copy(below[-1], root_fd)
                elif not below:
                    os.fchmod(root_fd, 0o755)
                self._apply(source, blob, diff_id, root_fd)
            finally:
                os.close(root_fd)
                if mount_fd >= 0:
                    os.close(mount_fd)  # with it goes the mount
            remove_tree(self._fd, f"{temporary}/work")
            try:
                os.rename(temporary, chain, src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except OSError:
                if not os.path.isdir(self.tree(chain)):
                    raise
                remove_tree(self._fd, temporary)  # another process was faster, with the same layer
        except BaseException:
            remove_tree(self._fd, temporary)
            raise

    def _apply(self, source: Source, blob: Descriptor, diff_id: str, root_fd: int) -> None:
        where = f"layer {blob['digest']}"
        extractor = Extractor(root_fd)
        try:
            with Layer(source.open_blob(blob), diff_id, where) as layer:
                extractor.apply(layer, where)
            extractor.finish()
        finally:
            extractor.close()

    def _copy(self, chain: str, target_fd: int) -> None:
        fd = os.open(self.tree(chain), _DIRECTORY)
        try:
            copy_tree(fd, target_fd)
        finally:
            os.close(fd)

    def root(self, chains: list[str], upper: str, work: str) -> int:
        """O_PATH fd of a writable root on these layers, detached: overlay only. Changes go to upper."""
        if not chains:
            raise ImageError(upper, "an image without layers has nothing to lay an overlay on")
        # The root of an overlay has the attributes of its upper directory.
        source, target = os.open(self.tree(chains[-1]), _DIRECTORY), os.open(upper, _DIRECTORY)
        try:
            copy_attributes(source, target)
        finally:
            os.close(source)
            os.close(target)
        return overlay.mount([self.tree(chain) for chain in chains], upper, work)

    def copy(self, chains: list[str], target_fd: int) -> None:
        """The whole tree in an empty directory: vfs only."""
        if chains:
            self._copy(chains[-1], target_fd)

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
                remove_tree(fd, name)
            return removed
        finally:
            os.close(fd)


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

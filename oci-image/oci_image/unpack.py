"""An image's root file system in a new directory: all or nothing."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image import descriptor as documents
from oci_image.errors import ImageError
from oci_image.extract import Extractor, Policy
from oci_image.layer import Layer
from oci_image.removal import remove_tree
from oci_image.tarstream import LIMITS
from oci_image.transfer import read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.tarstream import Limits
    from oci_image.transports import Source

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def new_directory(path: str) -> Iterator[tuple[str, int]]:
    """(name, fd) of a directory that becomes path when the block ends well, and is removed otherwise.

    path must not exist, or be an empty directory. What processes that died left of the same is
    removed. Raises ImageError.
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
        _remove_left(parent, name)
        temporary = temporary_name(name, os.getpid())
        os.mkdir(temporary, 0o700, dir_fd=parent)
        try:
            fd = os.open(temporary, _OPEN | os.O_NOFOLLOW, dir_fd=parent)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield f"{parent_path}/{temporary}", fd
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
        except BaseException:
            remove_tree(parent, temporary)
            raise
    finally:
        os.close(parent)


def _remove_left(parent: int, name: str) -> None:
    """Remove half-made directories that nobody is making any more."""
    for found in os.listdir(parent):
        pid = found.removeprefix(f".{name}.").removesuffix(".tmp")
        if not pid.isdecimal() or found != temporary_name(name, int(pid)) or os.path.exists(f"/proc/{pid}"):
            continue
        try:
            fd = os.open(found, _OPEN | os.O_NOFOLLOW, dir_fd=parent)
        except OSError:
            continue  # somebody else removes it, or it is no directory of ours
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its maker may live in another pid namespace
            remove_tree(parent, found)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)


def temporary_name(name: str, pid: int) -> str:
    """What new_directory calls a directory until it is whole."""
    return f".{name}.{pid}.tmp"


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

"""What a store still needs, what it can lose, and whether it is whole."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image.descriptor import INDEXES, MANIFESTS, MAX_CONFIG, MAX_DEPTH
from oci_image.digest import ALGORITHMS, check_digest
from oci_image.errors import ImageError, NotInStore
from oci_image.store import Store, digest_of_file, read_blob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_image.descriptor import Descriptor

    Remark = Callable[[str, str], None]


class Collected(NamedTuple):
    """What gc removed: blobs, their bytes, and files that writers which died had left."""

    blobs: int
    bytes: int
    temporary: int


class Finding(NamedTuple):
    """Something wrong in a store, and where."""

    where: str
    reason: str


def collect(
    store: Store,
    wait: bool = True,
    dry_run: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> Collected:
    """Remove the blobs that no name leads to. Waits for running imports (else BlockingIOError).

    progress is called with the bytes of each blob that is removed.

    A document that is damaged, or the missing top of a named image, hides what it refers to:
    then nothing is removed and ImageError raised.
    """
    with store.alone(wait):
        needed = {descriptor["digest"] for descriptor in _reachable(store)}
        count = freed = 0
        for algorithm, name, status in store.blobs():
            digest = f"{algorithm}:{name}"
            if digest in needed or not _is_blob_name(algorithm, name) or not stat.S_ISREG(status.st_mode):
                continue
            count += 1
            freed += status.st_size
            progress(status.st_size)
            if not dry_run:
                store.remove_blob(digest)
        return Collected(count, freed, 0 if dry_run else store.remove_temporary())


def _reachable(store: Store) -> Iterator[Descriptor]:
    """Every descriptor that index.json leads to. An index may list images that are not there."""
    seen: set[str] = set()
    queue = [(descriptor, 0) for _, descriptor in store.images()]
    while queue:
        descriptor, depth = queue.pop()
        yield descriptor
        media_type = descriptor["mediaType"]
        if media_type not in INDEXES | MANIFESTS or descriptor["digest"] in seen:
            continue
        seen.add(descriptor["digest"])
        try:
            document = load(store, descriptor)
        except NotInStore:
            if not depth:
                raise
            continue
        if depth == MAX_DEPTH:
            raise ImageError(descriptor["digest"], f"is nested more than {MAX_DEPTH} deep")
        queue += [(child, depth + 1) for child in documents.referred(document, media_type)]


def load(store: Store, descriptor: Descriptor) -> dict[str, object]:
    """A manifest or index of the store, verified and checked."""
    data = read_blob(descriptor, store.open_blob(descriptor))
    return documents.check_document(data, descriptor["mediaType"], descriptor["digest"])


def _is_blob_name(algorithm: str, name: str) -> bool:
    try:
        check_digest(f"{algorithm}:{name}", "")
    except ImageError:
        return False
    return True


def fsck(store: Store, progress: Callable[[int], None] = lambda _: None) -> list[Finding]:
    """Everything that is wrong: damaged, missing or misnamed blobs, documents that are not valid.

    progress is called with the number of bytes of blobs that were read.
    """
    found: list[Finding] = []

    def remark(where: str, reason: str) -> None:
        found.append(Finding(where, reason))

    with store.importing():  # gc must not remove what is being looked at
        damaged = _check_blobs(store, remark, progress)
        try:
            images = store.images()
        except ImageError as error:
            remark(error.where, error.reason)
            return found
        seen: set[str] = set(damaged)
        for name, descriptor in images:
            _check_tree(store, descriptor, name or "index.json", seen, remark, 0)
    return found


def _check_blobs(store: Store, remark: Remark, progress: Callable[[int], None]) -> set[str]:
    """Compare every blob with its name; the digests of those that differ."""
    damaged = set()
    for algorithm, name, status in store.blobs():
        where = f"blobs/{algorithm}/{name}"
        if algorithm not in ALGORITHMS or not _is_blob_name(algorithm, name):
            remark(where, "is not a blob's name")
        elif not stat.S_ISREG(status.st_mode):
            remark(where, "is not a regular file")
            damaged.add(f"{algorithm}:{name}")
        else:
            try:
                digest = digest_of_file(store, algorithm, name, progress)
            except OSError as error:
                digest = os.strerror(error.errno or 0)
            if digest != f"{algorithm}:{name}":
                remark(where, f"is damaged: its content is {digest}")
                damaged.add(f"{algorithm}:{name}")
    return damaged


def _check_tree(
    store: Store, descriptor: Descriptor, where: str, seen: set[str], remark: Remark, depth: int
) -> None:
    """Is all there that descriptor leads to? Children of an index may be missing: it is sparse."""
    digest, media_type = descriptor["digest"], descriptor["mediaType"]
    if digest in seen:
        return
    seen.add(digest)
    if depth > MAX_DEPTH:
        remark(where, f"is nested more than {MAX_DEPTH} deep")
        return
    if media_type not in INDEXES | MANIFESTS:
        if not store.has(descriptor):
            remark(where, f"{digest} is missing or of another size")
        return
    try:
        document = load(store, descriptor)
    except NotInStore:
        remark(where, f"{digest} is missing")
        return
    except ImageError as error:
        remark(where, str(error))
        return
    if media_type in INDEXES:
        for child in documents.referred(document, media_type):
            if store.has(child):
                _check_tree(store, child, where, seen, remark, depth + 1)
        return
    for blob in documents.referred(document, media_type):
        if blob["digest"] not in seen and not store.has(blob):
            remark(where, f"{blob['digest']} is missing or of another size")
    config: Descriptor = document["config"]  # type: ignore[assignment]
    if documents.is_image(document) and store.has(config) and config["digest"] not in seen:
        try:
            data = read_blob(config, store.open_blob(config), MAX_CONFIG)
            image = documents.check_config(documents.parse(data, config["digest"]), config["digest"])
            documents.check_image(document, image, digest)
        except ImageError as error:
            remark(where, str(error))

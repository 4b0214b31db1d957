"""Questions about images that need more than one document: history, sizes, shared layers, verification."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image.descriptor import INDEXES, MANIFESTS, MAX_DEPTH
from oci_image.digest import copy_stream
from oci_image.errors import ImageError, NotInStore
from oci_image.layer import Layer
from oci_image.transfer import read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.transports import Source


class Step(NamedTuple):
    """One entry of an image's history; layer is None where the step made none."""

    created: str
    created_by: str
    comment: str
    layer: Descriptor | None


def history(manifest: dict[str, Any], config: dict[str, Any]) -> list[Step]:
    """The steps that made an image, newest first (config.md, history).

    Layers beyond what the history knows come first, without a word on how they were made.
    """
    layers = list(manifest["layers"])
    steps = []
    for entry in config.get("history") or ():
        layer = layers.pop(0) if layers and not entry.get("empty_layer") else None
        created, command, comment = (entry.get(name) or "" for name in ("created", "created_by", "comment"))
        steps.append(Step(created, command, comment, layer))
    steps += [Step("", "", "", layer) for layer in layers]
    return steps[::-1]


class Size(NamedTuple):
    """Bytes of an image's blobs: those that no other image has, and the others."""

    own: int
    shared: int


def blobs_of(source: Source, top: Descriptor) -> dict[str, int]:
    """digest → size of everything an image or index consists of; images that are not there are left out."""
    found = {}
    for descriptor, document in documents_of(source, top):
        found[descriptor["digest"]] = descriptor["size"]
        if descriptor["mediaType"] not in INDEXES:
            found |= {blob["digest"]: blob["size"] for blob in (document["config"], *document["layers"])}
    return found


def sizes(source: Source, tops: dict[str, Descriptor]) -> dict[str, Size]:
    """Size of each image, by digest."""
    blobs = {digest: blobs_of(source, top) for digest, top in tops.items()}
    count: dict[str, int] = {}
    for found in blobs.values():
        for digest in found:
            count[digest] = count.get(digest, 0) + 1
    return {
        top: Size(
            sum(size for digest, size in found.items() if count[digest] == 1),
            sum(size for digest, size in found.items() if count[digest] > 1),
        )
        for top, found in blobs.items()
    }


def documents_of(source: Source, top: Descriptor) -> Iterator[tuple[Descriptor, dict[str, Any]]]:
    """(descriptor, document) of top and all indexes and manifests it leads to that are there, each once."""
    queue = [(top, 0)]
    seen = set()
    while queue:
        descriptor, depth = queue.pop()
        if descriptor["digest"] in seen:
            continue
        seen.add(descriptor["digest"])
        if depth > MAX_DEPTH:
            raise ImageError(f"{source.where}: {top['digest']}", f"is nested more than {MAX_DEPTH} deep")
        try:
            _, document = read_document(source, descriptor)
        except NotInStore:
            if descriptor is top:
                raise
            continue
        yield descriptor, document
        if descriptor["mediaType"] in INDEXES:
            # What else an index lists is for programs that know it (image-index.md, manifests).
            children = [one for one in document["manifests"] if one["mediaType"] in INDEXES | MANIFESTS]
            queue += [(child, depth + 1) for child in reversed(children)]


def manifests(source: Source, top: Descriptor) -> Iterator[tuple[Descriptor, dict[str, Any]]]:
    """(descriptor, manifest) of the images that top leads to and that are there."""
    for descriptor, document in documents_of(source, top):
        if descriptor["mediaType"] not in INDEXES:
            yield descriptor, document


def verify(source: Source, top: Descriptor) -> int:
    """Read everything of an image: digests, sizes, documents, DiffIDs, tar streams; how many blobs.

    Raises ImageError for the first thing that is wrong.
    """
    count = 0
    for descriptor, manifest in manifests(source, top):
        where = f"{source.where}: {descriptor['digest']}"
        count += 2 + len(manifest["layers"])
        if not documents.is_image(manifest):
            for blob in (manifest["config"], *manifest["layers"]):
                reader = source.open_blob(blob)
                try:
                    copy_stream(reader, len)
                finally:
                    reader.close()
            continue
        layers = documents.check_image(manifest, read_config(source, manifest), where)
        for blob, diff_id in layers:
            with Layer(source.open_blob(blob), diff_id, f"{source.where}: {blob['digest']}") as layer:
                for _ in layer.changes():
                    pass
    if not count:
        raise ImageError(f"{source.where}: {top['digest']}", "none of its images is there")
    return count

"""Images from a source to a sink: platforms chosen, documents checked, blobs verified on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image import platforms
from oci_image.descriptor import (
    CONFIGS,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    MANIFESTS,
    MAX_CONFIG,
    MAX_DEPTH,
    MAX_DOCUMENT,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from oci_image.errors import ImageError
from oci_image.platforms import Platform
from oci_image.store import read_blob

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.transports import Sink, Source

TO_OCI = {
    DOCKER_LIST: OCI_INDEX,
    DOCKER_MANIFEST: OCI_MANIFEST,
    DOCKER_CONFIG: OCI_CONFIG,
    DOCKER_LAYER: OCI_LAYER,
    DOCKER_LAYER + ".gzip": OCI_LAYER + "+gzip",
    DOCKER_LAYER + ".zstd": OCI_LAYER + "+zstd",
}


class Options(NamedTuple):
    """platform None is this machine's; every takes all images of an index instead.

    preserve keeps docker's media types, and so the digests, also where the sink is an OCI layout.
    progress is called with each blob that is copied and whether the sink had it.
    """

    platform: Platform | None = None
    every: bool = False
    preserve: bool = False
    progress: Callable[[Descriptor, bool], None] | None = None


def copy(source: Source, sink: Sink, top: Descriptor, names: tuple[str, ...], options: Options) -> Descriptor:
    """Copy one image and add it to the sink; its descriptor there. The sink is not committed yet."""
    copied = _copy(source, sink, documents.check_descriptor(top, source.where), options, 0, {})
    sink.add(names, copied)
    return copied


def read_document(source: Source, descriptor: Descriptor) -> tuple[bytes, dict[str, Any]]:
    """(bytes, checked JSON) of a manifest or index."""
    documents.check_descriptor(descriptor, source.where, MAX_DOCUMENT)
    data = read_blob(descriptor, source.open_blob(descriptor))
    where = f"{source.where}: {descriptor['digest']}"
    return data, documents.check_document(data, descriptor["mediaType"], where)


def read_config(source: Source, manifest: dict[str, Any]) -> dict[str, Any]:
    """The checked config of an image."""
    config = documents.check_descriptor(manifest["config"], source.where, MAX_CONFIG)
    where = f"{source.where}: {config['digest']}"
    data = read_blob(config, source.open_blob(config), MAX_CONFIG)
    return documents.check_config(documents.parse(data, where), where)


def resolve(source: Source, top: Descriptor, platform: Platform | None) -> Descriptor:
    """The manifest of the image for a platform (None: this machine's) that top leads to.

    Raises ImageError where there is none, also where the only image is for another platform than
    the one asked for.
    """
    descriptor = top
    for _ in range(MAX_DEPTH):
        if descriptor["mediaType"] not in INDEXES:
            break
        _, index = read_document(source, descriptor)
        where = f"{source.where}: {descriptor['digest']}"
        chosen = platforms.choose(index["manifests"], platform or platforms.host(), where)
        descriptor = documents.check_descriptor(chosen, where)
    else:
        raise ImageError(f"{source.where}: {top['digest']}", f"is nested more than {MAX_DEPTH} deep")
    _, manifest = read_document(source, descriptor)
    if platform and manifest["config"]["mediaType"] in CONFIGS:
        found = platforms.of_document(read_config(source, manifest))
        platforms.choose([{"platform": found._asdict()}], platform, f"{source.where}: {descriptor['digest']}")
    return descriptor


def _copy(
    source: Source,
    sink: Sink,
    descriptor: Descriptor,
    options: Options,
    depth: int,
    done: dict[str, Descriptor],
) -> Descriptor:
    """done: what children of indexes became, by digest; an index may list one many times."""
    media_type = descriptor["mediaType"]
    if depth > MAX_DEPTH:
        raise ImageError(f"{source.where}: {descriptor['digest']}", f"is nested more than {MAX_DEPTH} deep")
    if media_type in INDEXES:
        if options.every and sink.indexes:
            return _copy_index(source, sink, descriptor, options, depth, done)
        if options.every:
            raise ImageError(source.where, "the target holds images of one platform: leave out --all")
        return _copy_manifest(source, sink, resolve(source, descriptor, options.platform), options)
    if media_type in MANIFESTS:
        if options.platform:
            resolve(source, descriptor, options.platform)
        return _copy_manifest(source, sink, descriptor, options)
    raise ImageError(f"{source.where}: {descriptor['digest']}", f"{media_type} is no image and no index")


def _copy_index(
    source: Source,
    sink: Sink,
    descriptor: Descriptor,
    options: Options,
    depth: int,
    done: dict[str, Descriptor],
) -> Descriptor:
    data, index = read_document(source, descriptor)
    every = options._replace(platform=None)
    children = []
    for child in index["manifests"]:
        copied = done.get(child["digest"])
        if copied is None:
            copied = done[child["digest"]] = _copy(source, sink, child, every, depth + 1, done)
        children.append({**child, **documents.plain(copied)})
    if children != index["manifests"] or _to_convert(descriptor, sink, options):
        data = documents.encode({**index, "mediaType": OCI_INDEX, "manifests": children})
        descriptor = {**descriptor, **documents.describe(data, OCI_INDEX)}
    sink.put_document(descriptor, data)
    return descriptor


def _copy_manifest(source: Source, sink: Sink, descriptor: Descriptor, options: Options) -> Descriptor:
    data, manifest = read_document(source, descriptor)
    where = f"{source.where}: {descriptor['digest']}"
    if documents.is_image(manifest):
        # Before a gigabyte of layers was copied: is this an image that can be unpacked?
        documents.check_image(manifest, read_config(source, manifest), where)
    for i, blob in enumerate((manifest["config"], *manifest["layers"])):
        if documents.FOREIGN.search(blob["mediaType"]):
            documents.layer_compression(blob, f"{where}: layers[{i - 1}]")
        there = sink.has(blob)
        if options.progress:
            options.progress(blob, there)
        if there:
            continue
        reader = source.open_blob(blob)
        try:
            sink.put_blob(blob, reader)
        finally:
            reader.close()
    if _to_convert(descriptor, sink, options):
        data = documents.encode(_converted(manifest, where))
        descriptor = {**descriptor, **documents.describe(data, OCI_MANIFEST)}
    sink.put_document(descriptor, data)
    return descriptor


def _to_convert(descriptor: Descriptor, sink: Sink, options: Options) -> bool:
    return descriptor["mediaType"] in TO_OCI and not sink.docker and not options.preserve


def _converted(manifest: dict[str, Any], where: str) -> dict[str, Any]:
    """A docker manifest with OCI's media types; the blobs stay as they are."""

    def convert(blob: dict[str, Any], name: str) -> dict[str, Any]:
        media_type = TO_OCI.get(blob["mediaType"], blob["mediaType"])
        if media_type.startswith(documents.DOCKER):
            raise ImageError(
                f"{where}: {name}", f"OCI has no media type for {media_type}: --preserve-digests"
            )
        return {**blob, "mediaType": media_type}

    return {
        **manifest,
        "mediaType": OCI_MANIFEST,
        "config": convert(manifest["config"], "config"),
        "layers": [convert(layer, f"layers[{i}]") for i, layer in enumerate(manifest["layers"])],
    }

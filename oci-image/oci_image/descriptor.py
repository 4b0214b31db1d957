"""Manifests, indexes and configs: media types and strict checks before anything is believed.

A document stays the parsed JSON; members that are null count as absent. Every check raises
ImageError naming the field.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oci_image.digest import check_digest, of_bytes
from oci_image.errors import ImageError, TooLarge
from ocirt.errors import SpecError
from ocirt.spec import jsontext

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, NotRequired, TypedDict

    class Descriptor(TypedDict):
        """descriptor.md; unknown members are kept."""

        mediaType: str
        digest: str
        size: int
        platform: NotRequired[dict[str, Any]]
        annotations: NotRequired[dict[str, str]]
        artifactType: NotRequired[str]


OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."

OCI_INDEX = OCI + "index.v1+json"
OCI_MANIFEST = OCI + "manifest.v1+json"
OCI_CONFIG = OCI + "config.v1+json"
OCI_LAYER = OCI + "layer.v1.tar"
DOCKER_LIST = DOCKER + "distribution.manifest.list.v2+json"
DOCKER_MANIFEST = DOCKER + "distribution.manifest.v2+json"
DOCKER_CONFIG = DOCKER + "container.image.v1+json"
DOCKER_LAYER = DOCKER + "image.rootfs.diff.tar"

INDEXES = {OCI_INDEX, DOCKER_LIST}
MANIFESTS = {OCI_MANIFEST, DOCKER_MANIFEST}
CONFIGS = {OCI_CONFIG, DOCKER_CONFIG}
# Layer media type → how it is compressed.
LAYERS = {
    OCI_LAYER: "",
    OCI_LAYER + "+gzip": "gzip",
    OCI_LAYER + "+zstd": "zstd",
    DOCKER_LAYER: "",
    DOCKER_LAYER + ".gzip": "gzip",
    DOCKER_LAYER + ".zstd": "zstd",
}
FOREIGN = re.compile(r"(\.nondistributable\.|\.foreign\.)")
_OLD_MANIFEST = re.compile(r"application/vnd\.docker\.distribution\.manifest\.v1\+(json|prettyjws)")

REF_NAME = "org.opencontainers.image.ref.name"

MAX_DOCUMENT = 4 << 20  # bytes of a manifest or index; distribution-spec asks registries for as much
MAX_CONFIG = 16 << 20
MAX_BLOB = 1 << 40
MAX_DEPTH = 8  # indexes in indexes

_READ_BY_OTHERS = {
    name.casefold(): name for name in ("schemaVersion", "mediaType", "config", "layers", "manifests")
}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


def parse(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in a document. A key that occurs twice is an error: readers disagree on it."""
    try:
        document = jsontext.loads(data, where)
    except SpecError as error:
        raise ImageError(error.field, error.reason) from None
    if not isinstance(document, dict):
        raise ImageError(where, "is not a JSON object")
    if _SURROGATE.search(data) and _has_half_a_pair(document):
        raise ImageError(where, "has half of a surrogate pair, which is no character")
    return document


def _has_half_a_pair(document: Any) -> bool:
    """Does a text or name in it hold one half of a surrogate pair alone? JSON allows it, UTF-8 does not."""
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str) and _HALF.search(value):
            return True
    return False


def encode(document: Any, indent: str = "") -> bytes:
    """JSON as the blobs and files of this program hold it."""
    return jsontext.dumps(document, indent).encode()


def describe(data: bytes, media_type: str, algorithm: str = "sha256") -> Descriptor:
    """Descriptor of a blob with this content."""
    return {"mediaType": media_type, "digest": of_bytes(data, algorithm), "size": len(data)}


def plain(descriptor: Descriptor) -> Descriptor:
    """mediaType, digest and size alone: without the annotations of where it stood."""
    return {name: descriptor[name] for name in ("mediaType", "digest", "size")}  # type: ignore[return-value]


# Checks


def check_descriptor(value: object, where: str, most: int = MAX_BLOB) -> Descriptor:
    """value as a descriptor: digest, size and mediaType are there and sane, size at most `most`."""
    descriptor = _object(value, where)
    media_type = descriptor.get("mediaType")
    if not isinstance(media_type, str) or not _MEDIA_TYPE.fullmatch(media_type):
        raise ImageError(
            f"{where}.mediaType", f"{media_type!r} is not a media type", "descriptor.md, Properties"
        )
    check_digest(descriptor.get("digest"), f"{where}.digest")
    size = descriptor.get("size")
    if type(size) is not int or size < 0:
        raise ImageError(f"{where}.size", f"{size!r} is not a number of bytes", "descriptor.md, Properties")
    if size > most:
        raise TooLarge(f"{where}.size", f"{size} is more than the {most} bytes that are allowed")
    _strings(descriptor, "annotations", where)
    urls = descriptor.get("urls")
    if urls is not None and not (isinstance(urls, list) and all(isinstance(url, str) for url in urls)):
        raise ImageError(f"{where}.urls", "is not a list of strings", "descriptor.md, Properties")
    if descriptor.get("platform") is not None:
        check_platform(descriptor["platform"], f"{where}.platform")
    return descriptor  # type: ignore[return-value]


def check_platform(value: object, where: str) -> dict[str, Any]:
    platform = _object(value, where)
    for name in ("os", "architecture"):
        _text(platform, name, where, required=True)
    _text(platform, "variant", where)
    return platform


def check_document(data: bytes, media_type: str, where: str) -> dict[str, Any]:
    """The manifest or index in data, which its descriptor says is of media_type."""
    if _OLD_MANIFEST.fullmatch(media_type):
        raise ImageError(where, "is a docker manifest of schema 1, which nothing verifies")
    if media_type in INDEXES:
        return check_index(parse(data, where), media_type, where)
    if media_type in MANIFESTS:
        return check_manifest(parse(data, where), media_type, where)
    raise ImageError(where, f"media type {media_type} is neither a manifest's nor an index's")


def check_manifest(document: dict[str, Any], media_type: str, where: str) -> dict[str, Any]:
    """document as an image manifest of media_type (manifest.md). Not yet that it can be unpacked."""
    _check_kind(document, media_type, where, {"manifests": "an index", "fslayers": "a manifest of schema 1"})
    check_descriptor(document.get("config"), f"{where}: config")
    if document.get("layers", 0) is None:
        document["layers"] = []  # how Go writes an image without layers
    layers = document.get("layers")
    if not isinstance(layers, list):
        raise ImageError(f"{where}: layers", "is not a list", "manifest.md")
    for i, layer in enumerate(layers):
        check_descriptor(layer, f"{where}: layers[{i}]")
    if document.get("subject") is not None:
        check_descriptor(document["subject"], f"{where}: subject")
    _strings(document, "annotations", where)
    return document


def check_index(document: dict[str, Any], media_type: str, where: str) -> dict[str, Any]:
    """document as an image index (or docker manifest list) of media_type (image-index.md)."""
    belongs = {"layers": "a manifest", "config": "a manifest", "fslayers": "a manifest of schema 1"}
    _check_kind(document, media_type, where, belongs)
    manifests = document.get("manifests")
    if not isinstance(manifests, list):
        raise ImageError(f"{where}: manifests", "is not a list", "image-index.md")
    for i, descriptor in enumerate(manifests):
        check_descriptor(descriptor, f"{where}: manifests[{i}]")
    _strings(document, "annotations", where)
    return document


def _check_kind(document: dict[str, Any], media_type: str, where: str, others: dict[str, str]) -> None:
    """One document must not be two things (CVE-2021-41190)."""
    if document.get("schemaVersion") != 2 or type(document["schemaVersion"]) is not int:
        raise ImageError(f"{where}: schemaVersion", f"{document.get('schemaVersion')!r} is not 2")
    said = document.get("mediaType")
    if said is not None and said != media_type:
        raise ImageError(f"{where}: mediaType", f"{said!r}, but its descriptor says {media_type}")
    if said is None and media_type.startswith(DOCKER):
        raise ImageError(f"{where}: mediaType", "is missing")
    for name in document:
        # Go's decoder takes "Layers" for layers: what we pass over, others would read.
        known = name.casefold()
        if known in others:
            reason = f"belongs to {others[known]}; {media_type} has none (CVE-2021-41190)"
            raise ImageError(f"{where}: {name}", reason)
        if known in _READ_BY_OTHERS and name != _READ_BY_OTHERS[known]:
            raise ImageError(f"{where}: {name}", f"other programs read this as {_READ_BY_OTHERS[known]}")


def check_config(document: dict[str, Any], where: str) -> dict[str, Any]:
    """document as an image config (config.md)."""
    for name in ("os", "architecture"):
        _text(document, name, where, required=True)
    for name in ("variant", "os.version", "created", "author"):
        _text(document, name, where)
    _texts(document, "os.features", f"{where}: os.features")
    rootfs = _object(document.get("rootfs"), f"{where}: rootfs")
    if rootfs.get("type") != "layers":
        raise ImageError(f"{where}: rootfs.type", f"{rootfs.get('type')!r} is not 'layers'", "config.md")
    diff_ids = rootfs.get("diff_ids")
    if diff_ids is not None and not isinstance(diff_ids, list):
        raise ImageError(f"{where}: rootfs.diff_ids", "is not a list", "config.md")
    for i, diff_id in enumerate(diff_ids or ()):
        check_digest(diff_id, f"{where}: rootfs.diff_ids[{i}]")
    history = document.get("history")
    if history is not None and not isinstance(history, list):
        raise ImageError(f"{where}: history", "is not a list", "config.md")
    for i, entry in enumerate(history or ()):
        _object(entry, f"{where}: history[{i}]")
        for name in ("created", "author", "created_by", "comment"):
            _text(entry, name, f"{where}: history[{i}]")
    if document.get("config") is not None:
        _check_run_config(_object(document["config"], f"{where}: config"), f"{where}: config")
    return document


def _check_run_config(config: dict[str, Any], where: str) -> None:
    for name in ("User", "WorkingDir", "StopSignal"):
        _text(config, name, where)
    for name in ("Env", "Entrypoint", "Cmd"):
        _texts(config, name, f"{where}.{name}")
    for name in ("ExposedPorts", "Volumes"):
        if config.get(name) is not None:
            _object(config[name], f"{where}.{name}")
    _strings(config, "Labels", where)


def layer_compression(layer: Descriptor, where: str) -> str:
    """ "", "gzip" or "zstd". Raises ImageError for foreign layers and media types that are no layer."""
    media_type = layer["mediaType"]
    if FOREIGN.search(media_type):
        raise ImageError(where, f"is a foreign layer ({media_type}): its content is not part of the image")
    if media_type not in LAYERS:
        raise ImageError(where, f"media type {media_type} is not a layer that this program reads")
    return LAYERS[media_type]


def check_image(manifest: dict[str, Any], config: dict[str, Any], where: str) -> list[tuple[Descriptor, str]]:
    """(layer, DiffID), lowest first, of an image that can be unpacked: the two documents agree."""
    layers = manifest["layers"]
    diff_ids = config["rootfs"].get("diff_ids") or []
    if len(layers) != len(diff_ids):
        raise ImageError(where, f"has {len(layers)} layers, its config {len(diff_ids)} rootfs.diff_ids")
    for i, layer in enumerate(layers):
        layer_compression(layer, f"{where}: layers[{i}]")
    return list(zip(layers, diff_ids, strict=True))


def is_image(manifest: dict[str, Any]) -> bool:
    """Is a checked manifest that of a root file system? Others are artifacts: charts, attestations.

    buildkit gives its attestations an image's config, so the layers have to be looked at too.
    """
    if manifest["config"]["mediaType"] not in CONFIGS:
        return False
    kinds = [layer["mediaType"] for layer in manifest["layers"]]
    return all(kind in LAYERS or FOREIGN.search(kind) for kind in kinds)


def referred(document: dict[str, Any], media_type: str) -> Iterator[Descriptor]:
    """The descriptors that a checked manifest or index holds."""
    if media_type in INDEXES:
        yield from document["manifests"]
    else:
        yield document["config"]
        yield from document["layers"]


# Parts


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImageError(where, "is missing" if value is None else "is not a JSON object")
    return value


def _text(document: dict[str, Any], name: str, where: str, required: bool = False) -> None:
    value = document.get(name)
    if value is None and not required:
        return
    if not isinstance(value, str) or (required and not value):
        raise ImageError(f"{where}: {name}", "is missing" if value in (None, "") else "is not a string")


def _texts(document: dict[str, Any], name: str, where: str) -> None:
    words = document.get(name)
    if words is not None and not (isinstance(words, list) and all(type(word) is str for word in words)):
        raise ImageError(where, "is not a list of strings", "config.md")


def _strings(document: dict[str, Any], name: str, where: str) -> None:
    value = document.get(name)
    if value is not None and not (
        isinstance(value, dict) and all(type(text) is str for text in value.values())
    ):
        raise ImageError(f"{where}: {name}", "is not a map of strings to strings")

"""Images from images: more layers, another config."""

from __future__ import annotations

import copy
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image.deflate import compressor
from oci_image.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from oci_image.digest import new_hash
from oci_image.errors import ImageError
from oci_image.transfer import TO_OCI, read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.store import Import, Store
    from oci_image.transports import Source

BASE_DIGEST = "org.opencontainers.image.base.digest"


def now() -> int:
    """Seconds since the epoch; SOURCE_DATE_EPOCH makes images reproducible."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return int(time.time())
    if not text.isdecimal():
        raise ImageError("SOURCE_DATE_EPOCH", f"{text!r} is not a number of seconds")
    return int(text)


def timestamp() -> str:
    """now() as configs hold it (RFC 3339)."""
    try:
        moment = datetime.fromtimestamp(now(), UTC)
    except (OverflowError, ValueError):
        raise ImageError("SOURCE_DATE_EPOCH", "is a time after the year 9999") from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class NewLayer(NamedTuple):
    """A layer that is in the store already."""

    descriptor: Descriptor
    diff_id: str


class LayerWriter:
    """A tar stream that becomes a layer; use it in a with statement, then finish()."""

    def __init__(
        self, session: Import, compression: str = "gzip", progress: Callable[[int], None] = lambda _: None
    ) -> None:
        """progress is called with the number of bytes that were written."""
        self._kind = "" if compression == "none" else compression
        self._compressor = compressor(compression)
        self._progress = progress
        self._hash = new_hash()
        self._blob = session.writer()

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self._blob.write(self._compressor.compress(data))
        self._progress(len(data))

    def finish(self) -> NewLayer:
        self._blob.write(self._compressor.flush())
        digest = self._blob.commit()
        media_type = OCI_LAYER + (f"+{self._kind}" if self._kind else "")
        layer: Descriptor = {"mediaType": media_type, "digest": digest, "size": self._blob.size}
        return NewLayer(layer, f"sha256:{self._hash.hexdigest()}")

    def __enter__(self) -> LayerWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._blob.__exit__(*error)


class Changes(NamedTuple):
    """What becomes of `config` of the image: members to set (None removes one), labels and variables
    to add (a label without a value goes). author, comment and created_by are for the history.
    """

    members: dict[str, Any] = {}  # noqa: RUF012
    env: tuple[str, ...] = ()
    labels: dict[str, str | None] = {}  # noqa: RUF012
    author: str = ""
    comment: str = ""
    created_by: str = ""


def derive(
    source: Source,
    base: Descriptor,
    store: Store,
    session: Import,
    changes: Changes,
    layer: NewLayer | None = None,
) -> Descriptor:
    """An image that is base (its manifest's descriptor) with one more layer and changes of its config.

    Everything of base that it needs is copied to the store. The image has no name yet.
    """
    _, manifest = read_document(source, base)
    config = copy.deepcopy(read_config(source, manifest))
    documents.check_image(manifest, config, f"{source.where}: {base['digest']}")
    _copy_blobs(source, manifest["layers"], store, session)
    layers = [_converted(blob) for blob in manifest["layers"]]
    entry = _entry(changes, timestamp())
    if layer is None:
        entry["empty_layer"] = True
    else:
        layers.append({**layer.descriptor})
        diff_ids = config["rootfs"].get("diff_ids") or []
        config["rootfs"] = {**config["rootfs"], "diff_ids": [*diff_ids, layer.diff_id]}
    history = list(config.get("history") or ())
    told = sum(not step.get("empty_layer") for step in history)
    untold = [{"created_by": ""} for _ in manifest["layers"][told:]]  # else entry would be of one of these
    config["history"] = [*history, *untold, entry]
    return _store(session, config, layers, base, changes, entry["created"])


def _copy_blobs(source: Source, blobs: list[Descriptor], store: Store, session: Import) -> None:
    for blob in blobs:
        if not store.has(blob):
            reader = source.open_blob(blob)
            try:
                session.put(blob, reader)
            finally:
                reader.close()


def _converted(blob: Descriptor) -> dict[str, Any]:
    """A layer with OCI's media type."""
    return {**blob, "mediaType": TO_OCI.get(blob["mediaType"], blob["mediaType"])}


def _entry(changes: Changes, created: str) -> dict[str, Any]:
    """What the history says of changes."""
    said = {"author": changes.author, "comment": changes.comment}
    told = {name: text for name, text in said.items() if text}
    return {"created": created, "created_by": changes.created_by, **told}


def _store(
    session: Import,
    config: dict[str, Any],
    layers: list[dict[str, Any]],
    base: Descriptor,
    changes: Changes,
    created: str,
) -> Descriptor:
    """Config and manifest of a new image; its layers are in the store."""
    config["created"] = created
    if changes.author:
        config["author"] = changes.author
    config["config"] = changed(config.get("config") or {}, changes)
    documents.check_config(config, "config")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": session.put_bytes(documents.encode(config), OCI_CONFIG),
        "layers": layers,
        "annotations": {BASE_DIGEST: base["digest"]},
    }
    return session.put_bytes(documents.encode(document), OCI_MANIFEST)


def changed(config: dict[str, Any], changes: Changes) -> dict[str, Any]:
    """`config` of an image with changes; members that are not named stay, also unknown ones."""
    found = {**config, **changes.members}
    if changes.env:
        variables = {word.partition("=")[0]: word for word in found.get("Env") or ()}
        variables |= {word.partition("=")[0]: word for word in changes.env}
        found["Env"] = list(variables.values())
    if changes.labels:
        labels = {**(found.get("Labels") or {}), **changes.labels}
        found["Labels"] = {name: value for name, value in labels.items() if value is not None}
    return {name: value for name, value in found.items() if value is not None}


def squash(
    source: Source, base: Descriptor, session: Import, changes: Changes, compression: str = "gzip"
) -> Descriptor:
    """An image with the same root file system in one layer. It has no name yet."""
    from oci_image.flatten import flatten_image  # not needed by those who add a layer

    _, manifest = read_document(source, base)
    config = copy.deepcopy(read_config(source, manifest))
    with LayerWriter(session, compression) as writer:
        flatten_image(source, base, writer.write)
        layer = writer.finish()
    entry = _entry(changes, timestamp())
    config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id]}
    config["history"] = [entry]
    return _store(session, config, [{**layer.descriptor}], base, changes, entry["created"])


def rebase(
    source: Source, image: Descriptor, old: Base, new: Base, store: Store, session: Import, changes: Changes
) -> Descriptor:
    """image with the layers of new in the place of those of old, which it must stand on.

    The config stays image's own, its history new's and what image added. It has no name yet.
    """
    _, manifest = read_document(source, image)
    config = copy.deepcopy(read_config(source, manifest))
    layers = documents.check_image(manifest, config, f"{source.where}: {image['digest']}")
    (old_layers, old_config), (new_layers, new_config) = _base(old), _base(new)
    count = len(old_layers)
    if [diff_id for _, diff_id in layers[:count]] != [diff_id for _, diff_id in old_layers]:
        raise ImageError(f"{source.where}: {image['digest']}", "does not stand on the layers of the old base")
    for where, blobs in ((new.source, new_layers), (source, layers[count:])):
        _copy_blobs(where, [blob for blob, _ in blobs], store, session)
    kept = [*new_layers, *layers[count:]]
    entry = {**_entry(changes, timestamp()), "empty_layer": True}
    above = (config.get("history") or [])[len(old_config.get("history") or ()) :]
    config["history"] = [*(new_config.get("history") or ()), *above, entry]
    config["rootfs"] = {**config["rootfs"], "diff_ids": [diff_id for _, diff_id in kept]}
    return _store(
        session, config, [_converted(blob) for blob, _ in kept], new.image, changes, entry["created"]
    )


class Base(NamedTuple):
    """An image that others stand on, and where it is."""

    source: Source
    image: Descriptor


def _base(base: Base) -> tuple[list[tuple[Descriptor, str]], dict[str, Any]]:
    """(layers with their DiffIDs, config)"""
    _, manifest = read_document(base.source, base.image)
    config = read_config(base.source, manifest)
    return documents.check_image(manifest, config, f"{base.source.where}: {base.image['digest']}"), config

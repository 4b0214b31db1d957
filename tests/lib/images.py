"""Images for tests: layers from a few words, put into a layout."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import zstandard

from oci_image import descriptor
from oci_image.extract import Policy
from oci_image.store import Store
from oci_image.transports import Location, open_source
from oci_image.unpack import apply_image, new_directory

Entry = tuple[str, str] | tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]
COMPRESS = {
    "": lambda data: data,
    "gzip": lambda data: gzip.compress(data, 1, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
}


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A header; fields are TarInfo's (linkname, mode, uid, mtime, pax_headers, …)."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tar_of(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar stream of (name, text) files, headers, and (header, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            head, content = entry
            data = content.encode() if isinstance(content, str) else content
            info = member(head) if isinstance(head, str) else head
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_image(
    path: Path | str,
    name: str,
    *layers: bytes,
    compression: str = "gzip",
    config: dict[str, Any] | None = None,
    docker: bool = False,
    architecture: str = "amd64",
) -> dict[str, Any]:
    """Put an image of these layers (tar streams) into the layout at path, which is made."""
    layer_type = descriptor.DOCKER_LAYER if docker else descriptor.OCI_LAYER
    suffix = {"": "", "gzip": ".gzip", "zstd": ".zstd"}[compression] if docker else f"+{compression}"
    if not compression:
        suffix = ""
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    with Store.create(str(path)) as store, store.importing() as session:
        blobs = [session.put_bytes(COMPRESS[compression](layer), layer_type + suffix) for layer in layers]
        config_type = descriptor.DOCKER_CONFIG if docker else descriptor.OCI_CONFIG
        manifest = {
            "schemaVersion": 2,
            "mediaType": descriptor.DOCKER_MANIFEST if docker else descriptor.OCI_MANIFEST,
            "config": session.put_bytes(descriptor.encode(document), config_type),
            "layers": blobs,
        }
        top = session.put_bytes(descriptor.encode(manifest), manifest["mediaType"])
        session.set_name(name, top)
        return top


def make_index(path: Path | str, name: str, **images: dict[str, Any]) -> dict[str, Any]:
    """Put an index of images, by architecture, into the layout."""
    manifests = [
        {**one, "platform": {"os": "linux", "architecture": architecture}}
        for architecture, one in images.items()
    ]
    index = {"schemaVersion": 2, "mediaType": descriptor.OCI_INDEX, "manifests": manifests}
    with Store.create(str(path)) as store, store.importing() as session:
        top = session.put_bytes(descriptor.encode(index), descriptor.OCI_INDEX)
        session.set_name(name, top)
        return top


def unpack(layout: Path | str, name: str, target: Path | str, single: bool = False) -> dict[str, int]:
    """Unpack an image of a layout; what was left out."""
    source = open_source(Location("oci", str(layout)))
    try:
        with new_directory(str(target)) as (_, fd):
            return apply_image(source, source.find(name), fd, Policy(single))[1]
    finally:
        source.close()

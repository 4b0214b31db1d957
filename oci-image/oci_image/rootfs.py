"""Images from a tar stream of a root file system, as docker import makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oci_image import descriptor as documents
from oci_image.deflate import compressor
from oci_image.descriptor import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST
from oci_image.digest import new_hash
from oci_image.inflate import Peeked, Pipeline, compression_of, inflated
from oci_image.pack import timestamp
from oci_image.tarstream import LIMITS, TarReader

if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_image.deflate import Compressor
    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader
    from oci_image.platforms import Platform
    from oci_image.store import BlobWriter, Import


def import_rootfs(
    session: Import,
    reader: Reader,
    where: str,
    platform: Platform,
    run_config: dict[str, Any],
    *,
    compression: str = "",
    comment: str = "",
) -> Descriptor:
    """An image of one layer, which reader holds as a tar stream; its manifest, not yet named.

    compression is the layer's; "" leaves a compressed stream as it is, and makes gzip of another one.
    run_config is the `config` of the image. The stream is read as a layer would be: raises ImageError
    when it is none.
    """
    peeked = Peeked(reader)
    found = compression_of(peeked.start, where)
    hashed = new_hash()
    with session.writer() as writer:
        wanted = compression or found or "gzip"
        if wanted == found:
            stream: Reader = _Tee(peeked, writer)
            packer = None
        else:
            stream = peeked
            packer = compressor(wanted)
        pipeline = Pipeline(inflated(stream, where))
        try:
            tee = _Chunks(pipeline, hashed.update, writer, packer)
            tar = TarReader(tee, where, LIMITS)
            while tar.next():
                pass
            while tee.chunk():
                pass
        finally:
            pipeline.close()
        if packer:
            writer.write(packer.flush())
        digest = writer.commit()
        kind = "" if wanted == "none" else wanted
        layer = {
            "mediaType": OCI_LAYER + (f"+{kind}" if kind else ""),
            "digest": digest,
            "size": writer.size,
        }
    created = timestamp()
    config: dict[str, Any] = {
        "created": created,
        "architecture": platform.architecture,
        "os": platform.os,
        **({"variant": platform.variant} if platform.variant else {}),
        "config": run_config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashed.hexdigest()}"]},
        "history": [{"created": created, "comment": comment or "imported from a tar stream"}],
    }
    documents.check_config(config, "config")
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": session.put_bytes(documents.encode(config), OCI_CONFIG),
        "layers": [layer],
    }
    return session.put_bytes(documents.encode(manifest), OCI_MANIFEST)


class _Tee:
    """A reader whose bytes also go into a blob."""

    def __init__(self, reader: Reader, writer: BlobWriter) -> None:
        self._reader = reader
        self._writer = writer

    def read(self, size: int, /) -> bytes:
        data = self._reader.read(size)
        self._writer.write(data)
        return data

    def close(self) -> None:
        self._reader.close()


class _Chunks:
    """The pieces of a pipeline, hashed and, with a compressor, written on the way."""

    def __init__(
        self,
        pipeline: Pipeline,
        update: Callable[[bytes], object],
        writer: BlobWriter,
        compressor: Compressor | None,
    ) -> None:
        self._pipeline = pipeline
        self._update = update
        self._writer = writer
        self._compressor = compressor

    def chunk(self) -> bytes:
        data = self._pipeline.chunk()
        self._update(data)
        if self._compressor and data:
            self._writer.write(self._compressor.compress(data))
        return data

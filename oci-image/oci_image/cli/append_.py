"""append: an image with one more layer, which is a tar file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image.cli import changes, common
from oci_image.errors import ImageError
from oci_image.inflate import inflated
from oci_image.layer import Layer
from oci_image.pack import COMPRESSIONS, LayerWriter, derive
from oci_image.store import FdReader, Store
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse

    from oci_image.pack import NewLayer
    from oci_image.store import Import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("file", metavar="FILE", help='a layer as a tar file, compressed or not; "-": stdin')
    parser.add_argument("name", metavar="NAME", help="of the new image in the store; IMAGE's own will do")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="gzip", help="default: %(default)s")
    common.add_platform(parser)
    changes.add_arguments(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, f"oci-image append {os.path.basename(arguments.file)}")
    name = common.store_name(arguments.name)
    if arguments.file == "-" and sys.stdin.isatty():
        raise ImageError("stdin", "is a terminal, not a tar stream")
    source, top = common.find(arguments, arguments.image)
    try:
        base = resolve(source, top, common.platform(arguments))
        with common.open_store(arguments) as store, store.importing() as session:
            layer = _pack(arguments, store, session)
            made = derive(source, base, store, session, wanted, layer)
            session.set_name(name, made)
    finally:
        source.close()
    common.tell_made(arguments, name, made)
    return 0


def _pack(arguments: argparse.Namespace, store: Store, session: Import) -> NewLayer:
    """The file as a layer; it is read once more, as unpacking will read it."""
    where = "stdin" if arguments.file == "-" else arguments.file
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
    fd = os.dup(0) if arguments.file == "-" else os.open(arguments.file, flags)
    reader = inflated(FdReader(fd), where)
    try:
        with LayerWriter(session, arguments.compression) as writer:
            while data := reader.read(1 << 20):
                writer.write(data)
            layer = writer.finish()
    finally:
        reader.close()
    with Layer(store.open_blob(layer.descriptor), layer.diff_id, where) as checked:
        for _ in checked.changes():
            pass
    return layer

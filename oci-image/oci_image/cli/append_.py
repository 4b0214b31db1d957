"""append: an image with one more layer, which is a tar file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image.cli import changes, common
from oci_image.errors import ImageError
from oci_image.inflate import inflated
from oci_image.layer import Layer
from oci_image.pack import LayerWriter, derive
from oci_image.store import FdReader
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse

    from oci_image.pack import NewLayer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("file", metavar="FILE", help='a layer as a tar file, compressed or not; "-": stdin')
    common.add_platform(parser)
    changes.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, f"oci-image append {os.path.basename(arguments.file)}")
    if arguments.file == "-" and sys.stdin.isatty():
        raise ImageError("stdin", "is a terminal, not a tar stream")
    with common.found(arguments, arguments.image) as (source, top), changes.new_image(arguments) as new:
        base = resolve(source, top, common.platform(arguments))
        layer = _pack(arguments, new)
        watched = new.bar.watch(source, base, has=new.store.has)
        new.made = derive(watched, base, new.store, new.session, wanted, layer)
    return 0


def _pack(arguments: argparse.Namespace, new: changes.NewImage) -> NewLayer:
    """The file as a layer; it is read once more, as unpacking will read it."""
    where = "stdin" if arguments.file == "-" else arguments.file
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
    fd = os.dup(0) if arguments.file == "-" else os.open(arguments.file, flags)
    reader = inflated(new.bar.reader(FdReader(fd), fd), where)
    try:
        with LayerWriter(new.session, arguments.compression) as writer:
            while data := reader.read(1 << 20):
                writer.write(data)
            layer = writer.finish()
    finally:
        reader.close()
    with Layer(new.store.open_blob(layer.descriptor), layer.diff_id, where) as checked:
        for _ in checked.changes():
            pass
    return layer

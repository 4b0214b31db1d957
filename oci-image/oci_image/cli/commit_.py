"""commit: an image of what a container made of its bundle."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import changes, common, unbundle_
from oci_image.diff import write_layer
from oci_image.pack import COMPRESSIONS, LayerWriter, derive, now

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a bundle; its container should not be running")
    parser.add_argument("name", metavar="NAME", help="of the new image in the store")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="gzip", help="default: %(default)s")
    changes.add_arguments(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image commit")
    name = common.store_name(arguments.name)
    directory = arguments.directory
    unbundle_.enter_if_subordinate([directory])
    with bundle.changes(directory) as (found, record, maps):
        base = bundle.image_of(record, directory)
        source = bundle.source_of(record, directory)
        try:
            with common.open_store(arguments) as store, store.importing() as session:
                latest = now() * 1_000_000_000 if os.environ.get("SOURCE_DATE_EPOCH") else None
                with LayerWriter(session, arguments.compression) as writer:
                    write_layer(found, writer.write, latest, maps)
                    layer = writer.finish()
                made = derive(source, base, store, session, wanted, layer)
                session.set_name(name, made)
        finally:
            source.close()
    common.tell_made(arguments, name, made)
    return 0

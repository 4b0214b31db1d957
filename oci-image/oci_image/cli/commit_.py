"""commit: an image of what a container made of its bundle."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import changes, common
from oci_image.descriptor import check_descriptor
from oci_image.diff import write_layer
from oci_image.errors import ImageError
from oci_image.pack import COMPRESSIONS, LayerWriter, derive, now
from oci_image.transports import open_source, parse_location

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIR", help="a bundle on an overlay; its container should not be running"
    )
    parser.add_argument("name", metavar="NAME", help="of the new image in the store")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="gzip", help="default: %(default)s")
    changes.add_arguments(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image commit")
    name = common.store_name(arguments.name)
    with bundle.opened_upper(arguments.directory) as (upper_fd, record):
        place = parse_location(record.get("place") or "")
        if not place:
            raise ImageError(arguments.directory, "its record does not say where its image is")
        base = check_descriptor(record.get("manifest"), f"{arguments.directory}: manifest")
        source = open_source(place)
        try:
            with common.open_store(arguments) as store, store.importing() as session:
                latest = now() * 1_000_000_000 if os.environ.get("SOURCE_DATE_EPOCH") else None
                with LayerWriter(session, arguments.compression) as writer:
                    write_layer(upper_fd, writer.write, latest)
                    layer = writer.finish()
                made = derive(source, base, store, session, wanted, layer)
                session.set_name(name, made)
        finally:
            source.close()
    common.tell_made(arguments, name, made)
    return 0

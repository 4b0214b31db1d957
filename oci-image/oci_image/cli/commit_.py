"""commit: an image of what a container made of its bundle."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import changes
from oci_image.descriptor import check_descriptor
from oci_image.diff import write_layer
from oci_image.errors import ImageError
from oci_image.pack import LayerWriter, derive, now
from oci_image.transports import open_source, parse_location

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "directory", metavar="DIR", help="a bundle on an overlay; its container should not be running"
    )
    changes.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image commit")
    with bundle.opened_upper(arguments.directory) as (upper_fd, record):
        place = parse_location(record.get("place") or "")
        if not place:
            raise ImageError(arguments.directory, "its record does not say where its image is")
        base = check_descriptor(record.get("manifest"), f"{arguments.directory}: manifest")
        with closing(open_source(place)) as source, changes.new_image(arguments) as new:
            latest = now() * 1_000_000_000 if os.environ.get("SOURCE_DATE_EPOCH") else None
            with LayerWriter(new.session, arguments.compression, new.bar.add) as writer:
                write_layer(upper_fd, writer.write, latest)
                layer = writer.finish()
            new.made = derive(source, base, new.store, new.session, wanted, layer)
    return 0

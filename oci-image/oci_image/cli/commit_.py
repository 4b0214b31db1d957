"""commit: an image of what a container made of its bundle."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import changes, unbundle_
from oci_image.diff import write_layer
from oci_image.pack import LayerWriter, derive, now

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a bundle; its container should not be running")
    changes.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image commit")
    directory = arguments.directory
    unbundle_.enter_if_subordinate([directory])
    with bundle.changes(directory) as (found, record, maps):
        base = bundle.image_of(record, directory)
        with closing(bundle.source_of(record, directory)) as source, changes.new_image(arguments) as new:
            latest = now() * 1_000_000_000 if os.environ.get("SOURCE_DATE_EPOCH") else None
            with LayerWriter(new.session, arguments.compression, new.bar.add) as writer:
                write_layer(found, writer.write, latest, maps)
                layer = writer.finish()
            new.made = derive(source, base, new.store, new.session, wanted, layer)
    return 0

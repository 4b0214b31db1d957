"""config: an image with another config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import changes, common
from oci_image.pack import derive
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("name", metavar="NAME", help="of the new image in the store; IMAGE's own will do")
    common.add_platform(parser)
    changes.add_arguments(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image config")
    name = common.store_name(arguments.name)
    source, top = common.find(arguments, arguments.image)
    try:
        base = resolve(source, top, common.platform(arguments))
        with common.open_store(arguments) as store, store.importing() as session:
            made = derive(source, base, store, session, wanted)
            session.set_name(name, made)
    finally:
        source.close()
    common.tell_made(arguments, name, made)
    return 0

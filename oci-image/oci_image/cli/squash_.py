"""squash: an image with the same root file system in one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import changes, common
from oci_image.pack import COMPRESSIONS, squash
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("name", metavar="NAME", help="of the new image in the store; IMAGE's own will do")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="gzip", help="default: %(default)s")
    common.add_platform(parser)
    changes.add_arguments(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image squash")
    name = common.store_name(arguments.name)
    source, top = common.find(arguments, arguments.image)
    try:
        base = resolve(source, top, common.platform(arguments))
        with common.open_store(arguments) as store, store.importing() as session:
            made = squash(source, base, session, wanted, arguments.compression)
            session.set_name(name, made)
    finally:
        source.close()
    common.tell_made(arguments, name, made)
    return 0

"""tag: another name for an image of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import reference
from oci_image.cli import common
from oci_image.errors import ImageError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a name in the store or the beginning of a digest")
    parser.add_argument("names", metavar="NAME", nargs="+")
    common.add_json(parser, "a list of the new names with name and digest")


def run(arguments: argparse.Namespace) -> int:
    names = [reference.parse(name).with_default_tag() for name in arguments.names]
    for name in names:
        if name.digest:
            raise ImageError(str(name), "a new name cannot have a digest")
    with common.open_store(arguments) as store, store.importing() as session:
        descriptor = common.find_in_store(store, arguments.image)
        for name in names:
            session.set_name(str(name), descriptor)
    if arguments.json:
        common.print_json([{"name": str(name), "digest": descriptor["digest"]} for name in names])
    return 0

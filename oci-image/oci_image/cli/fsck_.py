"""fsck: is the store whole?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import bundle, gc
from oci_image.cli import common
from oci_image.cli.bundle_ import snapshots_path
from oci_image.cli.progress import Bar
from oci_image.store import Store
from oci_image.transports import OCI, parse_location

if TYPE_CHECKING:
    import argparse

DAMAGED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("layout", metavar="oci:DIR", nargs="?", help="another layout than the store")
    common.add_json(parser, "a list with where and reason of what is wrong")


def run(arguments: argparse.Namespace) -> int:
    path = common.store_path(arguments)
    if arguments.layout:
        place = parse_location(arguments.layout)
        path = place.path if place and place.transport == OCI else arguments.layout
    else:
        common.open_store(arguments).close()
    with Store.open(path) as store, Bar() as bar:
        bar.expect(sum(status.st_size for _, _, status in store.blobs()))
        found = gc.fsck(store, bar.add)
    if not arguments.layout:
        found += [gc.Finding(*one) for one in bundle.check(snapshots_path(arguments))]
    if arguments.json:
        common.print_json([one._asdict() for one in found])
    elif found:
        common.print_table(("WHERE", "WHAT IS WRONG"), found)
    else:
        print("nothing is wrong")
    return DAMAGED if found else 0

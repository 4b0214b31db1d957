"""gc: remove blobs that no name leads to, and unpacked layers that neither an image nor a bundle needs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image import gc
from oci_image.bundle import used_chains
from oci_image.cli import common
from oci_image.cli.bundle_ import snapshots_path
from oci_image.cli.progress import Bar
from oci_image.snapshots import needed_chains, opened
from oci_image.transports import OCI, Location, open_source

if TYPE_CHECKING:
    import argparse

    from oci_image.descriptor import Descriptor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say which blobs would be removed")
    common.add_json(parser, "blobs, bytes and temporary files that were removed, snapshots: layers")


def run(arguments: argparse.Namespace) -> int:
    with common.open_store(arguments) as store, Bar() as bar:
        try:
            done = gc.collect(store, wait=False, dry_run=arguments.dry_run, progress=bar.add)
        except BlockingIOError:
            sys.stderr.write("oci-image: waiting for an import that is running\n")
            done = gc.collect(store, dry_run=arguments.dry_run, progress=bar.add)
        images = [descriptor for _, descriptor in store.images()]
    snapshots = 0 if arguments.dry_run else _collect_snapshots(arguments, images)
    if arguments.json:
        common.print_json({**done._asdict(), "snapshots": snapshots})
        return 0
    would = "would be removed" if arguments.dry_run else "removed"
    layers = f", {snapshots} unpacked layers removed" if snapshots else ""
    print(f"{done.blobs} blobs {would}, {common.size_text(done.bytes)}{layers}")
    return 0


def _collect_snapshots(arguments: argparse.Namespace, images: list[Descriptor]) -> int:
    """Remove the unpacked layers that neither an image of the store nor a bundle needs."""
    path = snapshots_path(arguments)
    if not os.path.isdir(path):
        return 0
    source = open_source(Location(OCI, common.store_path(arguments)))
    try:
        needed = needed_chains(source, images)
    finally:
        source.close()
    return sum(snapshots.collect(lambda: needed | used_chains(path)) for snapshots in opened(path))

"""gc: remove what no name leads to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oci_image import gc
from oci_image.cli import common

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    with common.open_store(arguments) as store:
        try:
            done = gc.collect(store, wait=False, dry_run=arguments.dry_run)
        except BlockingIOError:
            sys.stderr.write("oci-image: waiting for an import that is running\n")
            done = gc.collect(store, dry_run=arguments.dry_run)
    if arguments.json:
        common.print_json(done._asdict())
    else:
        would = "would be removed" if arguments.dry_run else "removed"
        print(f"{done.blobs} blobs {would}, {common.size_text(done.bytes)}")
    return 0

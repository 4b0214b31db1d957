"""save: images of the store (or of other places) into one archive."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from oci_image import transfer
from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.errors import ImageError
from oci_image.transports import DOCKER_ARCHIVE, OCI_ARCHIVE, Location, open_sink, parse_location

if TYPE_CHECKING:
    import argparse

FORMATS = {"docker": DOCKER_ARCHIVE, "oci": OCI_ARCHIVE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the archive (default: stdout)")
    text = "docker: docker load and podman load read it (default); oci: an image layout alone"
    parser.add_argument("--format", choices=FORMATS, default="docker", help=text)
    common.add_platform(parser, every=True)


def run(arguments: argparse.Namespace) -> int:
    if arguments.output == "-" and sys.stdout.isatty():
        raise ImageError("stdout", "is a terminal, which an archive would spoil: --output FILE")
    bar = Bar()
    platform = common.platform(arguments)
    options = transfer.Options(platform, arguments.all, progress=bar.blob)
    sink = open_sink(Location(FORMATS[arguments.format], arguments.output))
    try:
        for text in arguments.images:
            source, top = common.find(arguments, text)
            try:
                watched = bar.watch(source, top, platform, arguments.all)
                transfer.copy(watched, sink, top, _names(text, top["digest"]), options)
            finally:
                source.close()
        sink.commit()
    finally:
        bar.end()
        sink.close()
    return 0


def _names(text: str, digest: str) -> tuple[str, ...]:
    """The name in the archive: the one in the store, the one at the other place, or none."""
    place = parse_location(text)
    if place:
        return (place.name,) if place.name else ()
    if digest.startswith(text) or digest.partition(":")[2].startswith(text):
        return ()
    return (common.store_name(text),)

"""save: images of the store (or of other places) into one archive."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from oci_image import transfer
from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.transports import DOCKER_ARCHIVE, OCI_ARCHIVE, Location, open_sink, parse_location

if TYPE_CHECKING:
    import argparse
    from typing import Any

FORMATS = {"docker": DOCKER_ARCHIVE, "oci": OCI_ARCHIVE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    common.add_output(parser, "the archive", "output, format, images: a list with names and digest")
    text = "docker: docker load and podman load read it (default); oci: an image layout alone"
    parser.add_argument("--format", choices=FORMATS, default="docker", help=text)
    common.add_platform(parser, every=True)


def run(arguments: argparse.Namespace) -> int:
    common.check_output(arguments, "an archive")
    platform = common.platform(arguments)
    saved: list[dict[str, Any]] = []
    with closing(open_sink(Location(FORMATS[arguments.format], arguments.output))) as sink, Bar() as bar:
        options = transfer.Options(platform, arguments.all, progress=bar.blob)
        for text in arguments.images:
            with common.found(arguments, text) as (source, top):
                watched = bar.watch(source, top, platform, arguments.all)
                names = _names(text, top["digest"])
                copied = transfer.copy(watched, sink, top, names, options)
                saved.append({"names": list(names), "digest": copied["digest"]})
        sink.commit()
    if arguments.json:
        told = {"output": arguments.output, "format": arguments.format, "images": saved}
        common.print_json(told)
    return 0


def _names(text: str, digest: str) -> tuple[str, ...]:
    """The name in the archive: the one in the store, the one at the other place, or none."""
    place = parse_location(text)
    if place:
        return (place.name,) if place.name else ()
    if digest.startswith(text) or digest.partition(":")[2].startswith(text):
        return ()
    return (common.store_name(text),)

"""load: all images of an archive into the store."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

from oci_image import reference, transfer
from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.errors import ImageError
from oci_image.transports import DOCKER_ARCHIVE, OCI, Location, open_sink, open_source

if TYPE_CHECKING:
    import argparse
    from typing import Any

STDIN = "/dev/stdin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", metavar="FILE", default="-", help="the archive (default: stdin)")
    common.add_platform(parser, every=True)
    common.add_json(parser, "a list of the images with names and digest")


def run(arguments: argparse.Namespace) -> int:
    if arguments.input == "-" and sys.stdin.isatty():
        raise ImageError("stdin", "is a terminal, not an archive: --input FILE")
    path = STDIN if arguments.input == "-" else arguments.input
    platform = common.platform(arguments)
    loaded: list[dict[str, Any]] = []
    archive = Location(DOCKER_ARCHIVE, path)  # OCI archives are read as well
    store = Location(OCI, common.store_path(arguments))
    with closing(open_source(archive)) as source, closing(open_sink(store)) as sink, Bar() as bar:
        options = transfer.Options(platform, arguments.all, progress=bar.blob)
        for image in source.images():
            names = tuple(_store_name(name, path) for name in image.names)
            watched = bar.watch(source, image.descriptor, platform, arguments.all)
            copied = transfer.copy(watched, sink, image.descriptor, names, options)
            loaded.append({"names": list(names), "digest": copied["digest"]})
        sink.commit()
    if arguments.json:
        common.print_json(loaded)
        return 0
    common.print_names("loaded", loaded)
    return 0


def _store_name(name: str, path: str) -> str:
    try:
        return str(reference.parse(name).with_default_tag())
    except ImageError as error:
        raise ImageError(path, f"the name of an image: {error}") from None

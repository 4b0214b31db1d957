"""copy: an image from one place to another."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from oci_image import transfer
from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.transports import open_sink

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="IMAGE")
    parser.add_argument("target", metavar="TARGET", help="a place, or a name in the store")
    common.add_platform(parser, every=True)
    parser.add_argument(
        "--preserve-digests",
        action="store_true",
        help="keep docker's media types in an image layout, where few other programs read them",
    )
    common.add_json(parser, "target, digest and mediaType")


def run(arguments: argparse.Namespace) -> int:
    target = common.location(arguments, arguments.target)
    platform = common.platform(arguments)
    with common.found(arguments, arguments.source) as (source, top), closing(open_sink(target)) as sink:
        with Bar() as bar:
            options = transfer.Options(platform, arguments.all, arguments.preserve_digests, bar.blob)
            watched = bar.watch(source, top, platform, arguments.all)
            names = (target.name,) if target.name else ()
            copied = transfer.copy(watched, sink, top, names, options)
            sink.commit()
    if arguments.json:
        common.print_json(
            {"target": str(target), "digest": copied["digest"], "mediaType": copied["mediaType"]}
        )
    else:
        print(copied["digest"])
    return 0

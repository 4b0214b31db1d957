"""verify: read all of an image, down to the uncompressed layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.look import verify

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="+")
    common.add_json(parser, "a list with image, digest and blobs: how many were read")


def run(arguments: argparse.Namespace) -> int:
    verified = []
    for text in arguments.images:
        with common.found(arguments, text) as (source, top), Bar() as bar:
            count = verify(bar.watch(source, top, every=True), top)
            verified.append({"image": text, "digest": top["digest"], "blobs": count})
    if arguments.json:
        common.print_json(verified)
        return 0
    for one in verified:
        print(f"{one['image']}: {one['blobs']} blobs are what they should be")
    return 0

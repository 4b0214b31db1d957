"""unpack: the root file system of an image in a directory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.extract import Policy
from oci_image.transfer import resolve
from oci_image.unpack import apply_image, new_directory

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("directory", metavar="DIR", help="is made; an empty directory will do")
    common.add_platform(parser)
    add_rootless(parser)


def add_rootless(parser: argparse.ArgumentParser) -> None:
    text = "one user owns all; owners are recorded in xattrs, devices are empty files (default unless root)"
    parser.add_argument("--rootless", action="store_true", default=os.geteuid() != 0, help=text)


def run(arguments: argparse.Namespace) -> int:
    source, top = common.find(arguments, arguments.image)
    try:
        descriptor = resolve(source, top, common.platform(arguments))
        with new_directory(arguments.directory) as (_, fd):
            _, left_out = apply_image(source, descriptor, fd, Policy(single=arguments.rootless))
    finally:
        source.close()
    tell_left_out(left_out)
    return 0


def tell_left_out(left_out: dict[str, int]) -> None:
    """What could not be made as the image has it, on stderr."""
    for what, count in left_out.items():
        sys.stderr.write(f"oci-image: not as in the image: {what} ({count})\n")

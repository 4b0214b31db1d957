"""export: the root file system of an image as a tar file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.errors import ImageError
from oci_image.flatten import flatten_image
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="the tar file (default: stdout)")
    common.add_platform(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.output == "-" and sys.stdout.isatty():
        raise ImageError("stdout", "is a terminal, which a tar file would spoil: --output FILE")
    source, top = common.find(arguments, arguments.image)
    try:
        descriptor = resolve(source, top, common.platform(arguments))
        if arguments.output == "-":
            flatten_image(source, descriptor, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
            return 0
        temporary = f"{arguments.output}.{os.getpid()}.tmp"
        with open(temporary, "xb") as file:
            try:
                flatten_image(source, descriptor, file.write)
                file.flush()
                os.fsync(file.fileno())
                os.rename(temporary, arguments.output)
            except BaseException:
                os.unlink(temporary)
                raise
    finally:
        source.close()
    return 0

"""unbundle: unmount and remove what bundle made, and what the container changed in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import bundle
from ocirt.errors import OcirtError, Several

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "bundles whose containers were deleted"
    parser.add_argument("directories", metavar="DIR", nargs="+", help=text)


def run(arguments: argparse.Namespace) -> int:
    failed: list[OcirtError] = []
    for directory in arguments.directories:
        try:
            bundle.remove(directory)
        except OcirtError as error:
            failed.append(error)
    if failed:
        raise Several(failed)
    return 0

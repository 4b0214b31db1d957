"""unbundle: unmount and remove what bundle made, and what the container changed in it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import common
from oci_image.userns import enter
from ocirt.errors import OcirtError, Several

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "bundles whose containers were deleted"
    parser.add_argument("directories", metavar="DIR", nargs="+", help=text)
    common.add_json(parser, "a list of the removed bundles with directory")


def run(arguments: argparse.Namespace) -> int:
    failed: list[OcirtError] = []
    removed: list[dict[str, str]] = []
    if os.geteuid() and any(map(bundle.is_subordinate, arguments.directories)):
        enter()  # who owns such files may be removed by nobody else
    for directory in arguments.directories:
        try:
            bundle.remove(directory)
            removed.append({"directory": directory})
        except OcirtError as error:
            failed.append(error)
    if arguments.json:
        common.print_json(removed)
    if failed:
        raise Several(failed)
    return 0

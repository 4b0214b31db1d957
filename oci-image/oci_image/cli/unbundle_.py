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
    from collections.abc import Callable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directories(parser, "bundles whose containers were deleted")


def run(arguments: argparse.Namespace) -> int:
    enter_if_subordinate(arguments.directories)
    for_each(bundle.remove, arguments)
    return 0


def enter_if_subordinate(directories: list[str]) -> None:
    """Become root of a user namespace, if need be: who owns subordinate ids' files is nobody else."""
    if os.geteuid() and any(map(bundle.is_subordinate, directories)):
        enter()


def add_directories(parser: argparse.ArgumentParser, text: str) -> None:
    """DIR..., and --json."""
    parser.add_argument("directories", metavar="DIR", nargs="+", help=text)
    common.add_json(parser, "a list of the bundles with which it went well, with directory")


def for_each(call: Callable[[str], None], arguments: argparse.Namespace) -> None:
    """Do it to all bundles, also where it fails with some. Raises Several."""
    failed: list[OcirtError] = []
    done: list[dict[str, str]] = []
    for directory in arguments.directories:
        try:
            call(directory)
            done.append({"directory": directory})
        except OcirtError as error:
            failed.append(error)
    if arguments.json:
        common.print_json(done)
    if failed:
        raise Several(failed)

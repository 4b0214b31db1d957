"""unmount: take the root of a bundle away; what the container changed stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli.unbundle_ import add_directories, for_each

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directories(parser, "bundles whose containers are not running; mount mounts them again")


def run(arguments: argparse.Namespace) -> int:
    for_each(bundle.unmount, arguments)
    return 0

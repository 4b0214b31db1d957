"""mount: the root of a bundle is there again, after a restart of the machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli.unbundle_ import add_directories, for_each

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_directories(parser, "bundles; nothing happens to those that are mounted or need no mount")


def run(arguments: argparse.Namespace) -> int:
    for_each(bundle.mount, arguments)
    return 0

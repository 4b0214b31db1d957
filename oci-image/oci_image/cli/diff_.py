"""diff: what a container changed in its bundle, as docker diff tells it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import common
from oci_image.diff import differences
from oci_image.errors import printable

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a bundle on an overlay")
    common.add_json(parser, "a list with kind (A, C or D) and path")


def run(arguments: argparse.Namespace) -> int:
    with bundle.opened_upper(arguments.directory) as (upper_fd, record):
        found = list(differences(upper_fd, bundle.lower_trees(record)))
    if arguments.json:
        common.print_json([{"kind": kind, "path": os.fsdecode(path)} for kind, path in found])
        return 0
    for kind, path in found:
        print(kind, printable(os.fsdecode(path)))
    return 0

"""diff: what a container changed in its bundle, as docker diff tells it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import common, unbundle_
from oci_image.diff import differences
from oci_image.errors import printable

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="a bundle")
    common.add_json(parser, "a list with kind (A, C or D) and path")


def run(arguments: argparse.Namespace) -> int:
    unbundle_.enter_if_subordinate([arguments.directory])
    with bundle.changes(arguments.directory) as (changes, _, _):
        found = differences(changes)
    if arguments.json:
        common.print_json([{"kind": kind, "path": os.fsdecode(path)} for kind, path in found])
        return 0
    for kind, path in found:
        print(kind, printable(os.fsdecode(path)))
    return 0

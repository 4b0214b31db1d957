"""cp: a file or directory out of an image."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.cli.unpack_ import tell_left_out
from oci_image.errors import ImageError
from oci_image.extract import Policy
from oci_image.flatten import flatten_image
from oci_image.transfer import resolve
from oci_image.unpack import apply_stream, begins_with_directory, new_directory

if TYPE_CHECKING:
    import argparse
    from typing import BinaryIO

STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("path", metavar="PATH", help="in the image")
    text = 'a new name, or a directory to put it into; "-": stdout, as a tar stream'
    parser.add_argument("target", metavar="TARGET", help=text)
    common.add_platform(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.target == STDOUT and sys.stdout.isatty():
        raise ImageError("stdout", "is a terminal, which a tar stream would spoil")
    path = os.fsencode(arguments.path).strip(b"/")
    source, top = common.find(arguments, arguments.image)
    try:
        descriptor = resolve(source, top, common.platform(arguments))
        if arguments.target == STDOUT:
            flatten_image(source, descriptor, sys.stdout.buffer.write, path)
            return 0
        with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR", "/var/tmp")) as spool:
            flatten_image(source, descriptor, spool.write, path)
            spool.seek(0)
            left_out = _place(spool, path, arguments.target)
    finally:
        source.close()
    tell_left_out(left_out)
    return 0


def _place(spool: BinaryIO, path: bytes, target: str) -> dict[str, int]:
    """Make what the tar stream holds: as target, or in it where that is a directory."""
    name = os.fsdecode(path.rpartition(b"/")[2])
    if os.path.isdir(target):
        if not name:
            raise ImageError(target, "exists already; the root of an image needs a new name")
        target = f"{target.rstrip('/')}/{name}"
    if os.path.lexists(target):
        raise ImageError(target, "exists already")
    policy = Policy(single=os.geteuid() != 0)
    if begins_with_directory(spool, target):
        with new_directory(target) as (_, fd):
            return apply_stream(spool, target, fd, policy)
    with new_directory(f"{target}.{os.getpid()}") as (made, fd):
        left_out = apply_stream(spool, target, fd, policy)
        os.rename(f"{made}/{name}", target)
    os.rmdir(f"{target}.{os.getpid()}")
    return left_out

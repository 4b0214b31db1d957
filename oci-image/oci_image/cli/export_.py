"""export: the root file system of an image as a tar file."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.digest import new_hash
from oci_image.flatten import flatten_image
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    common.add_output(parser, "the tar file", "output, its size and diffId, digest of the manifest")
    common.add_platform(parser)


def run(arguments: argparse.Namespace) -> int:
    common.check_output(arguments, "a tar file")
    with common.found(arguments, arguments.image) as (source, top), Bar() as bar:
        descriptor = resolve(source, top, common.platform(arguments))
        watched = bar.watch(source, descriptor, times=2)
        if arguments.output == common.STDOUT:
            flatten_image(watched, descriptor, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
            return 0
        tar = _write_file(arguments.output, lambda write: flatten_image(watched, descriptor, write))
    if arguments.json:
        common.print_json({"output": arguments.output, **tar, "digest": descriptor["digest"]})
    return 0


def _write_file(path: str, fill: Callable[[Callable[[bytes], object]], None]) -> dict[str, Any]:
    """A file with what fill writes, all or nothing; its size and digest."""
    temporary = f"{path}.{os.getpid()}.tmp"
    hashed = new_hash()
    with open(temporary, "xb") as file:

        def write(data: bytes) -> None:
            hashed.update(data)
            file.write(data)

        try:
            fill(write)
            file.flush()
            os.fsync(file.fileno())
            os.rename(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return {"size": file.tell(), "diffId": f"sha256:{hashed.hexdigest()}"}

"""export: the root file system of an image as a tar file."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.digest import new_hash
from oci_image.flatten import flatten_image
from oci_image.newfile import NewFile
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    common.add_output(parser, "the tar file", "output, its size and diffId, digest of the manifest")
    common.add_platform(parser)


def run(arguments: argparse.Namespace) -> int:
    common.check_output(arguments, "a tar file")
    hashed = new_hash()
    size = 0

    def write(data: bytes) -> None:
        nonlocal size
        size += len(data)
        hashed.update(data)
        new.file.write(data)

    with common.found(arguments, arguments.image) as (source, top), Bar() as bar:
        descriptor = resolve(source, top, common.platform(arguments))
        with closing(NewFile(arguments.output)) as new:
            flatten_image(bar.watch(source, descriptor, times=2), descriptor, write)
            new.commit()
    if arguments.json:
        told = {"size": size, "diffId": f"sha256:{hashed.hexdigest()}", "digest": descriptor["digest"]}
        common.print_json({"output": arguments.output, **told})
    return 0

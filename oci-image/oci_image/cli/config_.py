"""config: an image with another config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import changes, common
from oci_image.pack import derive
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    common.add_platform(parser)
    changes.add_arguments(parser, packs=False)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image config")
    with common.found(arguments, arguments.image) as (source, top), changes.new_image(arguments) as new:
        base = resolve(source, top, common.platform(arguments))
        watched = new.bar.watch(source, base, has=new.store.has)
        new.made = derive(watched, base, new.store, new.session, wanted)
    return 0

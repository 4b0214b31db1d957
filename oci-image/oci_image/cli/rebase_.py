"""rebase: an image on another base, without building it again."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from oci_image.cli import changes, common
from oci_image.pack import Base, rebase
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("old", metavar="OLD-BASE", help="an image whose layers IMAGE begins with")
    parser.add_argument("new", metavar="NEW-BASE", help="the image to take in its place")
    common.add_platform(parser)
    changes.add_arguments(parser, packs=False)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image rebase")
    platform = common.platform(arguments)
    with ExitStack() as opened:
        bases = []
        for text in (arguments.image, arguments.old, arguments.new):
            source, top = opened.enter_context(common.found(arguments, text))
            bases.append(Base(source, resolve(source, top, platform)))
        made = opened.enter_context(changes.new_image(arguments))
        has = made.store.has
        image, old, new = (Base(made.bar.watch(*base, has=has), base.image) for base in bases)
        made.made = rebase(image.source, image.image, old, new, made.store, made.session, wanted)
    return 0

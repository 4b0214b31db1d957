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
    parser.add_argument("name", metavar="NAME", help="of the new image in the store; IMAGE's own will do")
    common.add_platform(parser)
    changes.add_arguments(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    wanted = changes.of(arguments, "oci-image rebase")
    name = common.store_name(arguments.name)
    platform = common.platform(arguments)
    with ExitStack() as opened:
        found = []
        for text in (arguments.image, arguments.old, arguments.new):
            source, top = common.find(arguments, text)
            opened.callback(source.close)
            found.append(Base(source, resolve(source, top, platform)))
        image, old, new = found
        store = opened.enter_context(common.open_store(arguments))
        session = opened.enter_context(store.importing())
        made = rebase(image.source, image.image, old, new, store, session, wanted)
        session.set_name(name, made)
    common.tell_made(arguments, name, made)
    return 0

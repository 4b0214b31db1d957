"""rm: names out of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.errors import ImageError

if TYPE_CHECKING:
    import argparse
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "a name, or the beginning of a digest: then all names of the image"
    parser.add_argument("images", metavar="IMAGE", nargs="+", help=text)
    common.add_json(parser, "a list with names that were taken away and digest")


def run(arguments: argparse.Namespace) -> int:
    removed: list[dict[str, Any]] = []
    with common.open_store(arguments) as store:
        for text in arguments.images:
            common.find_in_store(store, text)  # all or none
        for text in arguments.images:
            digest = common.find_in_store(store, text)["digest"]
            try:
                name = common.store_name(text)
                store.remove_name(name)
                names = [name]
            except ImageError:
                names = store.remove_digest(digest)
            removed.append({"names": names, "digest": digest})
    if arguments.json:
        common.print_json(removed)
        return 0
    common.print_names("removed", removed)
    return 0

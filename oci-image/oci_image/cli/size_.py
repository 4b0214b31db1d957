"""size: what each image of the store takes, and shares with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.look import sizes
from oci_image.transports import OCI, Location, open_source

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_json(parser, "a list with name, digest, own and shared bytes")


def run(arguments: argparse.Namespace) -> int:
    with common.open_store(arguments) as store:
        images = store.images()
    source = open_source(Location(OCI, common.store_path(arguments)))
    try:
        found = sizes(source, {descriptor["digest"]: descriptor for _, descriptor in images})
    finally:
        source.close()
    rows = [
        {"name": name, "digest": descriptor["digest"], **found[descriptor["digest"]]._asdict()}
        for name, descriptor in sorted(images, key=lambda image: image[0])
    ]
    if arguments.json:
        common.print_json(rows)
        return 0
    table = []
    for row in rows:
        name = common.names_for_people(row["name"]) if row["name"] else "<none>"
        numbers = (row["own"], row["shared"], row["own"] + row["shared"])
        table.append((name, common.short(row["digest"]), *map(common.size_text, numbers)))
    common.print_table(("NAME", "DIGEST", "OWN", "SHARED", "TOTAL"), table)
    return 0

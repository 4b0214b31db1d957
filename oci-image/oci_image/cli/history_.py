"""history: the steps that made an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.look import history
from oci_image.transfer import read_config, read_document, resolve

if TYPE_CHECKING:
    import argparse

WIDTH = 60  # characters of a command that a table has room for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("--no-trunc", action="store_true", help="show commands in full")
    common.add_platform(parser)
    common.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    source, top = common.find(arguments, arguments.image)
    try:
        _, manifest = read_document(source, resolve(source, top, common.platform(arguments)))
        steps = history(manifest, read_config(source, manifest))
    finally:
        source.close()
    if arguments.json:
        common.print_json([step._asdict() for step in steps])
        return 0
    rows = []
    for step in steps:
        command = " ".join(step.created_by.split())
        if len(command) > WIDTH and not arguments.no_trunc:
            command = command[: WIDTH - 1] + "…"
        size = common.size_text(step.layer["size"]) if step.layer else "0 B"
        created = step.created.partition(".")[0].rstrip("Z").replace("T", " ")
        rows.append((created, command, size, step.comment))
    common.print_table(("CREATED", "CREATED BY", "SIZE", "COMMENT"), rows)
    return 0

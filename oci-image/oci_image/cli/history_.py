"""history: the steps that made an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.look import history
from oci_image.transfer import read_config, read_document, resolve

if TYPE_CHECKING:
    import argparse

    from oci_image.look import Step

WIDTH = 60  # characters of a command that a table has room for


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("--no-trunc", action="store_true", help="show commands in full")
    common.add_platform(parser)
    how = parser.add_mutually_exclusive_group()
    common.add_json(how, "a list of steps, newest first, with created, created_by, comment and layer or null")
    how.add_argument(
        "--format",
        metavar="TEMPLATE",
        help=f"{common.ROW_FORMAT}, and docker's ID CreatedAt CreatedBy Size Comment",
    )


def run(arguments: argparse.Namespace) -> int:
    with common.found(arguments, arguments.image) as (source, top):
        _, manifest = read_document(source, resolve(source, top, common.platform(arguments)))
        steps = history(manifest, read_config(source, manifest))
    if arguments.json:
        common.print_json([step._asdict() for step in steps])
        return 0
    if arguments.format is not None:
        from oci_image.cli.template import print_rows  # most calls do without

        print_rows(arguments.format, [{**step._asdict(), **_as_docker(step)} for step in steps])
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


def _as_docker(step: Step) -> dict[str, str]:
    """A step under the names of docker history --format; ID is the layer's, as images of steps have none."""
    return {
        "ID": step.layer["digest"] if step.layer else "<missing>",
        "CreatedAt": step.created,
        "CreatedBy": step.created_by,
        "Size": common.size_text(step.layer["size"] if step.layer else 0),
        "Comment": step.comment,
    }

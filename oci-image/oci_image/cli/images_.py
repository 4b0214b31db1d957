"""images: what the store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image import reference
from oci_image.cli import common
from oci_image.descriptor import INDEXES, is_image
from oci_image.errors import ImageError
from oci_image.look import documents_of
from oci_image.platforms import of_document
from oci_image.transfer import read_config
from oci_image.transports import OCI, Location, open_source

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.transports import Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    common.add_json(how, "a list with name, digest, mediaType, platforms, created, size, error if damaged")
    names = "ID Repository Tag Digest CreatedAt Size"
    how.add_argument("--format", metavar="TEMPLATE", help=f"{common.ROW_FORMAT}, and docker's {names}")
    how.add_argument("-q", "--quiet", action="store_true", help="print digests alone")


def run(arguments: argparse.Namespace) -> int:
    with common.open_store(arguments) as store:
        entries = store.images()
    source = open_source(Location(OCI, common.store_path(arguments)))
    try:
        rows = [_describe(source, name, descriptor) for name, descriptor in entries]
    finally:
        source.close()
    rows.sort(key=lambda row: (row["name"] == "", row["name"]))
    if arguments.json:
        common.print_json(rows)
    elif arguments.format is not None:
        from oci_image.cli.template import print_rows  # most calls do without

        print_rows(arguments.format, [{**row, **_as_docker(row)} for row in rows])
    elif arguments.quiet:
        for digest in dict.fromkeys(row["digest"] for row in rows):
            print(digest)
    else:
        common.print_table(("NAME", "DIGEST", "PLATFORM", "CREATED", "SIZE"), map(_row, rows))
    return 0


def _describe(source: Source, name: str, descriptor: Descriptor) -> dict[str, Any]:
    """size is that of all blobs, each counted once; an image that cannot be read says why."""
    row: dict[str, Any] = {"name": name, "digest": descriptor["digest"], "mediaType": descriptor["mediaType"]}
    blobs = {descriptor["digest"]: descriptor["size"]}
    try:
        row["platforms"], row["created"] = _look(source, descriptor, blobs)
    except ImageError as error:
        row |= {"platforms": [], "created": "", "error": str(error)}
    row["size"] = sum(blobs.values())
    return row


def _as_docker(row: dict[str, Any]) -> dict[str, str]:
    """A row under the names of docker images --format."""
    try:
        name = reference.parse(row["name"])
        repository, tag = name._replace(tag="", digest="").familiar, name.tag
    except ImageError:  # a layout of another program may hold any name, or none
        repository, tag = row["name"], ""
    return {
        "ID": common.short(row["digest"]),
        "Repository": repository or "<none>",
        "Tag": tag or "<none>",
        "Digest": row["digest"],
        "CreatedAt": row["created"],
        "Size": common.size_text(row["size"]),
    }


def _look(source: Source, top: Descriptor, blobs: dict[str, int]) -> tuple[list[str], str]:
    """(platforms, when the newest image was made); blobs gets the sizes of all that is there."""
    platforms = []
    created = ""
    for descriptor, document in documents_of(source, top):
        blobs[descriptor["digest"]] = descriptor["size"]
        if descriptor["mediaType"] in INDEXES:
            continue
        blobs |= {blob["digest"]: blob["size"] for blob in (document["config"], *document["layers"])}
        if is_image(document):
            config = read_config(source, document)
            platforms.append(str(of_document(config)))
            created = max(created, config.get("created") or "")
    return platforms, created


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    name = common.names_for_people(row["name"]) if row["name"] else "<none>"
    platforms = row["platforms"]
    shown = ", ".join(platforms[:2]) + (f" and {len(platforms) - 2} more" if len(platforms) > 2 else "")
    if row.get("error"):
        shown = "damaged: oci-image fsck"
    created = row["created"].partition(".")[0].rstrip("Z").replace("T", " ")
    return name, common.short(row["digest"]), shown, created, common.size_text(row["size"])

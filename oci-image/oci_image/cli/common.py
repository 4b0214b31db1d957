"""What the verbs share: where an IMAGE is, tables, JSON, sizes, progress."""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image import platforms, reference
from oci_image.errors import ImageError, NotInStore, printable
from oci_image.newfile import STDOUT
from oci_image.store import Store
from oci_image.transports import OCI, Location, open_source, parse_location
from ocirt.spec.jsontext import dumps

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.platforms import Platform
    from oci_image.transports import Source

# For help: what --format of a verb that lists takes.
ROW_FORMAT = 'a Go template for each row, after "table " in columns; members are those of --json'
GAP = 3
SHORT = 12  # digits of a digest that people are shown
_DIGEST = re.compile(r"(sha256:)?[0-9a-f]{6,64}")


def store_path(arguments: argparse.Namespace) -> str:
    """The layout that is the store."""
    return f"{arguments.root}/layout"


def open_store(arguments: argparse.Namespace) -> Store:
    """The store, made when it does not exist; for nobody but its owner, as images may hold secrets."""
    os.makedirs(arguments.root, mode=0o700, exist_ok=True)
    return Store.create(store_path(arguments))


def store_name(text: str) -> str:
    """The name under which the store keeps an image that a user calls text."""
    return str(reference.parse(text).with_default_tag())


def location(arguments: argparse.Namespace, text: str) -> Location:
    """Where an IMAGE is: the place it names, else the store."""
    return parse_location(text) or Location(OCI, store_path(arguments), store_name(text))


def place(arguments: argparse.Namespace, text: str) -> Location:
    """Where an IMAGE is to be found from any working directory, without its name."""
    found = parse_location(text) or Location(OCI, store_path(arguments))
    return Location(found.transport, os.path.abspath(found.path))


def tell_made(arguments: argparse.Namespace, name: str, descriptor: Descriptor) -> None:
    """What a verb that makes an image prints."""
    if arguments.json:
        print_json({"name": name, "digest": descriptor["digest"]})
    else:
        print(descriptor["digest"])


def find(arguments: argparse.Namespace, text: str) -> tuple[Source, Descriptor]:
    """(open source, manifest or index) of an IMAGE; close the source."""
    place = parse_location(text)
    if place:
        source = open_source(place)
        try:
            return source, source.find(place.name)
        except BaseException:
            source.close()
            raise
    with open_store(arguments) as store:
        descriptor = find_in_store(store, text)
    return open_source(Location(OCI, store_path(arguments))), descriptor


@contextmanager
def found(arguments: argparse.Namespace, text: str) -> Iterator[tuple[Source, Descriptor]]:
    """What find() gives, for a with statement, which closes the source."""
    source, top = find(arguments, text)
    try:
        yield source, top
    finally:
        source.close()


def find_in_store(store: Store, text: str) -> Descriptor:
    """The image of the store that text names, else the one whose digest begins so."""
    try:
        return store.find(store_name(text))
    except ImageError as error:
        if not _DIGEST.fullmatch(text):
            raise (
                NotInStore(text, "there is no such image") if isinstance(error, NotInStore) else error
            ) from None
    try:
        return store.find_digest(text)
    except NotInStore:
        raise NotInStore(text, "there is no such image") from None


def names_for_people(name: str) -> str:
    """The short form of a name of the store; other names as they are."""
    try:
        return reference.parse(name).familiar
    except ImageError:
        return name


def add_json(parser: argparse._ActionsContainer, what: str = "") -> None:
    """--json; what, for the help, are the members of the object or list that is printed."""
    parser.add_argument("--json", action="store_true", help=f"print JSON: {what}" if what else "print JSON")


def add_output(parser: argparse.ArgumentParser, what: str, members: str) -> None:
    """--output, which is stdout unless a file is named, and --json, which needs stdout for itself."""
    text = f"{what} (default: stdout)"
    parser.add_argument("-o", "--output", metavar="FILE", default=STDOUT, help=text)
    add_json(parser, f"{members}; needs --output FILE")


def check_output(arguments: argparse.Namespace, what: str) -> None:
    """Raises ImageError where what, the content of --output, would spoil a terminal or meet JSON."""
    if arguments.output != STDOUT:
        return
    if arguments.json:
        raise ImageError("--json", f"stdout is taken by {what}: --output FILE")
    if sys.stdout.isatty():
        raise ImageError("stdout", f"is a terminal, which {what} would spoil: --output FILE")


def add_platform(parser: argparse.ArgumentParser, every: bool = False) -> None:
    group = parser.add_mutually_exclusive_group() if every else parser
    text = "of an index, the image for os/architecture[/variant] (default: this machine's)"
    group.add_argument("--platform", metavar="PLATFORM", help=text)
    if every:
        group.add_argument("--all", action="store_true", help="of an index, the images of all platforms")


def platform(arguments: argparse.Namespace) -> Platform | None:
    return platforms.parse(arguments.platform) if arguments.platform else None


def print_names(done: str, images: list[dict[str, Any]]) -> None:
    """A line for each name of images (names, digest), or for the digest of one without a name."""
    for one in images:
        for name in one["names"] or [one["digest"]]:
            print(f"{done}: {printable(names_for_people(str(name)))}")


def print_json(value: Any) -> None:
    sys.stdout.write(dumps(value, "  ") + "\n")


def shown(text: str) -> str:
    """text of an image's author: on a terminal without what would control it, elsewhere as it is."""
    if not sys.stdout.isatty():
        return text
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as their widest cell and a gap; cells are made printable."""
    lines = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) + GAP for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        sys.stdout.write("".join(cells).rstrip() + "\n")


def short(digest: str) -> str:
    return digest.partition(":")[2][:SHORT]


def size_text(size: int) -> str:
    """1.2 MB, as docker writes sizes: powers of 1000."""
    value, unit = float(size), 0
    units = ("B", "kB", "MB", "GB", "TB")
    while value >= 1000 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    return f"{size} B" if not unit else f"{value:.3g} {units[unit]}"

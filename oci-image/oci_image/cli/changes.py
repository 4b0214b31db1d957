"""What the verbs share that make an image in the store: its name and the changes of its config."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.cli.import_ import command_words
from oci_image.cli.progress import Bar
from oci_image.deflate import COMPRESSIONS
from oci_image.errors import ImageError
from oci_image.pack import Changes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.store import Import, Store


def add_arguments(parser: argparse.ArgumentParser, packs: bool = True) -> None:
    """NAME and all options of the new image; packs: one of its layers is compressed here."""
    parser.add_argument("name", metavar="NAME", help="of the new image in the store; the old one's will do")
    if packs:
        text = "of the new layer (default: %(default)s)"
        parser.add_argument("--compression", choices=COMPRESSIONS, default="gzip", help=text)
    common.add_json(parser, "name and digest of the new image")
    _add_changes(parser)


class NewImage:
    """The store while an image comes into it; made is to become the image's descriptor."""

    def __init__(self, store: Store, session: Import, bar: Bar) -> None:
        self.store = store
        self.session = session
        self.bar = bar
        self.made: Descriptor | None = None


@contextmanager
def new_image(arguments: argparse.Namespace) -> Iterator[NewImage]:
    """Gives what the block made the NAME of the command line, and prints it."""
    name = common.store_name(arguments.name)
    with common.open_store(arguments) as store, store.importing() as session:
        with Bar() as bar:
            new = NewImage(store, session, bar)
            yield new
        assert new.made
        session.set_name(name, new.made)
    common.tell_made(arguments, name, new.made)


def _add_changes(parser: argparse.ArgumentParser) -> None:
    command = 'a JSON array ["/bin/tool", "-x"], or a line for /bin/sh; [] takes it away'
    group = parser.add_argument_group("changes of the config")
    group.add_argument("--entrypoint", metavar="COMMAND", help=command)
    group.add_argument("--cmd", metavar="COMMAND", help=command)
    group.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    group.add_argument(
        "--label", metavar="NAME[=VALUE]", action="append", default=[], help="NAME takes it away"
    )
    group.add_argument("--user", metavar="USER[:GROUP]")
    group.add_argument("--workdir", metavar="DIR")
    group.add_argument("--stop-signal", metavar="SIGNAL")
    group.add_argument("--expose", metavar="PORT[/PROTOCOL]", action="append")
    group.add_argument("--volume", metavar="DIR", action="append")
    group.add_argument("--author", metavar="TEXT", default="")
    group.add_argument("--comment", metavar="TEXT", default="", help="for the image's history")


def of(arguments: argparse.Namespace, created_by: str) -> Changes:
    """What the options say. An option that is not given leaves the image's word, an empty text removes it."""
    members: dict[str, Any] = {}
    for name, option in (("Entrypoint", "entrypoint"), ("Cmd", "cmd")):
        text = getattr(arguments, option)
        if text is not None:
            members[name] = command_words(text, f"--{option}") or None
    if "Entrypoint" in members and "Cmd" not in members:
        members["Cmd"] = None  # it holds arguments of the Entrypoint that was
    for name, option in (("User", "user"), ("WorkingDir", "workdir"), ("StopSignal", "stop_signal")):
        text = getattr(arguments, option)
        if text is not None:
            members[name] = text or None
    if arguments.expose:
        members["ExposedPorts"] = {port if "/" in port else f"{port}/tcp": {} for port in arguments.expose}
    if arguments.volume:
        members["Volumes"] = {path: {} for path in arguments.volume}
    for word in arguments.env:
        if "=" not in word or word.startswith("="):
            raise ImageError("--env", f"{word!r} is not NAME=VALUE")
    labels: dict[str, str | None] = {}
    for word in arguments.label:
        name, equals, value = word.partition("=")
        if not name:
            raise ImageError("--label", f"{word!r} has no name")
        labels[name] = value if equals else None
    env = tuple(arguments.env)
    return Changes(members, env, labels, arguments.author, arguments.comment, created_by)

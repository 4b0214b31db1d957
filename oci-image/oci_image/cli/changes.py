"""The options that change the config of an image, for config, commit and append."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oci_image.cli.import_ import command_words
from oci_image.errors import ImageError
from oci_image.pack import Changes

if TYPE_CHECKING:
    import argparse
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
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

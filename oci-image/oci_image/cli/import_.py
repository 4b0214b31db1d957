"""import: a root file system in a tar file becomes an image of one layer."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from oci_image import platforms
from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.deflate import COMPRESSIONS
from oci_image.errors import ImageError
from oci_image.rootfs import import_rootfs
from oci_image.store import FdReader, Store
from oci_image.transports import OCI
from ocirt.errors import SpecError
from ocirt.spec import jsontext

if TYPE_CHECKING:
    import argparse
    from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help='a tar file, which gzip or zstd may compress; "-": stdin'
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="of the image: in the store, or oci:DIR[:NAME]"
    )
    parser.add_argument("--platform", metavar="PLATFORM", help="that it is for (default: this machine's)")
    text = "of the layer (default: the file's, gzip where it has none)"
    parser.add_argument("--compression", choices=COMPRESSIONS, default="", help=text)
    parser.add_argument("--comment", metavar="TEXT", default="", help="for the image's history")
    command = 'a JSON array ["/bin/tool", "-x"], or a line for /bin/sh'
    parser.add_argument("--entrypoint", metavar="COMMAND", help=command)
    parser.add_argument("--cmd", metavar="COMMAND", help=command)
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", help="may be given several times")
    parser.add_argument("--user", metavar="USER[:GROUP]")
    parser.add_argument("--workdir", metavar="DIR")
    parser.add_argument("--label", metavar="NAME=VALUE", action="append", help="may be given several times")
    common.add_json(parser, "name and digest of the new image")


def run(arguments: argparse.Namespace) -> int:
    platform = platforms.parse(arguments.platform) if arguments.platform else platforms.host()
    run_config = _run_config(arguments)
    target = None
    if arguments.name:
        target = common.location(arguments, arguments.name)
        if target.transport != OCI:
            raise ImageError(arguments.name, "an image is imported into the store or into oci:DIR")
    if arguments.file == "-":
        if sys.stdin.isatty():
            raise ImageError("stdin", "is a terminal, not a tar stream")
        fd = os.dup(0)
    else:
        fd = os.open(arguments.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    where = "stdin" if arguments.file == "-" else arguments.file
    layout = target.path if target else common.store_path(arguments)
    with closing(FdReader(fd)) as reader, Store.create(layout) as store, store.importing() as session:
        with Bar() as bar:
            descriptor = import_rootfs(
                session,
                bar.reader(reader, fd),
                where,
                platform,
                run_config,
                compression=arguments.compression,
                comment=arguments.comment,
            )
        session.set_name(target.name if target else "", descriptor)
    if arguments.json:
        common.print_json({"name": target.name if target else "", "digest": descriptor["digest"]})
    else:
        print(descriptor["digest"])
    return 0


def _run_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `config` of the image, in docker's order of members."""
    config: dict[str, Any] = {}
    if arguments.user is not None:
        config["User"] = arguments.user
    if arguments.env:
        config["Env"] = [_pair(word, "--env") for word in arguments.env]
    for name, text in (("Entrypoint", arguments.entrypoint), ("Cmd", arguments.cmd)):
        if text is not None:
            config[name] = command_words(text, f"--{name.lower()}")
    if arguments.workdir is not None:
        config["WorkingDir"] = arguments.workdir
    if arguments.label:
        config["Labels"] = dict(_pair(word, "--label").split("=", 1) for word in arguments.label)
    return config


def _pair(word: str, option: str) -> str:
    if "=" not in word or word.startswith("="):
        raise ImageError(option, f"{word!r} is not NAME=VALUE")
    return word


def command_words(text: str, option: str) -> list[str]:
    """A command of the command line: a JSON array, or a line for the shell. Raises ImageError."""
    if not text.lstrip().startswith("["):
        return ["/bin/sh", "-c", text]
    try:
        words = jsontext.loads(text, option)
    except SpecError as error:
        raise ImageError(option, error.reason) from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ImageError(option, "is not an array of strings")
    return words

"""unpack: the root file system of an image in a directory."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.errors import ImageError
from oci_image.extract import Policy
from oci_image.transfer import resolve
from oci_image.unpack import apply_image, new_directory
from oci_image.userns import Maps, enter, parse

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from oci_image.descriptor import Descriptor

MADE = "directory, digest of the manifest, leftOut: what is not as in the image and how often"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("directory", metavar="DIR", help="is made; an empty directory will do")
    common.add_platform(parser)
    add_rootless(parser)
    common.add_json(parser, MADE)


def add_rootless(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    text = "one user owns all; owners are recorded in xattrs, devices are empty files (default unless root)"
    how.add_argument("--rootless", action="store_true", default=os.geteuid() != 0, help=text)
    text = "without root: owners are the user's subordinate ids, as of /etc/subuid and /etc/subgid"
    how.add_argument("--subordinate", action="store_true", help=text)
    text = "owners are shifted to those of a user namespace; may be given several times"
    how.add_argument("--uid-map", metavar="CONTAINER:HOST:SIZE", action="append", help=text)
    text = "the same for groups (default: as --uid-map)"
    parser.add_argument("--gid-map", metavar="CONTAINER:HOST:SIZE", action="append", help=text)


def id_maps(arguments: argparse.Namespace) -> Maps | None:
    """The id maps of --uid-map or --subordinate, whose user namespace this process is in then."""
    if arguments.uid_map:
        if os.geteuid():
            raise ImageError("--uid-map", "needs root; --subordinate takes the maps from /etc/subuid")
        uids, gids = arguments.uid_map, arguments.gid_map or arguments.uid_map
        return Maps([parse(row) for row in uids], [parse(row) for row in gids])
    if arguments.gid_map:
        raise ImageError("--gid-map", "means nothing without --uid-map")
    if not arguments.subordinate:
        return None
    if os.geteuid() == 0:
        raise ImageError("--subordinate", "is for users without root, who cannot set owners otherwise")
    return enter()


def run(arguments: argparse.Namespace) -> int:
    maps = id_maps(arguments)  # before there are threads
    if arguments.subordinate:
        policy = Policy(unprivileged=True)
    else:
        policy = Policy(single=arguments.rootless, maps=maps)
    with common.found(arguments, arguments.image) as (source, top), Bar() as bar:
        descriptor = resolve(source, top, common.platform(arguments))
        with new_directory(arguments.directory) as (_, fd):
            _, left_out = apply_image(bar.watch(source, descriptor), descriptor, fd, policy)
    tell_left_out(left_out)
    if arguments.json:
        common.print_json(made(arguments, descriptor, left_out))
    return 0


def made(arguments: argparse.Namespace, descriptor: Descriptor, left_out: dict[str, int]) -> dict[str, Any]:
    """What --json prints of a directory that was made."""
    return {"directory": arguments.directory, "digest": descriptor["digest"], "leftOut": left_out}


def tell_left_out(left_out: dict[str, int]) -> None:
    """What could not be made as the image has it, on stderr."""
    for what, count in left_out.items():
        sys.stderr.write(f"oci-image: not as in the image: {what} ({count})\n")

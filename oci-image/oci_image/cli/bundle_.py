"""bundle: a directory that `ocirt run` takes, from an image."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from oci_image import bundle
from oci_image.cli import common
from oci_image.cli.import_ import command_words
from oci_image.cli.progress import Bar
from oci_image.cli.unpack_ import MADE, add_rootless, id_maps, made, tell_left_out
from oci_image.conversion import Overrides
from oci_image.drivers import AUTO, choose
from oci_image.errors import ImageError, printable
from oci_image.snapshots import Snapshots
from oci_image.transfer import resolve

if TYPE_CHECKING:
    import argparse

    from oci_image.userns import Maps

COMMAND = True  # may follow --


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE")
    parser.add_argument("directory", metavar="DIR", help="is made; an empty directory will do")
    parser.add_argument(
        "args", metavar="ARG", nargs="*", help="command in place of the image's Cmd, after --"
    )
    common.add_platform(parser)
    root = parser.add_mutually_exclusive_group()
    text = (
        "how the root stands on shared layers: overlay, btrfs (snapshots), fuse-overlayfs (also without "
        "root), vfs (a copy), or the first of these that works here, auto (default for root)"
    )
    root.add_argument("--driver", metavar="DRIVER", help=text)
    root.add_argument(
        "--copy", action="store_true", help="a full tree that shares nothing (default unless root)"
    )
    add_rootless(parser)
    parser.add_argument("--entrypoint", metavar="COMMAND", help="a JSON array or a line for /bin/sh")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--workdir", metavar="DIR")
    parser.add_argument("--user", metavar="USER[:GROUP]")
    parser.add_argument("--hostname", metavar="NAME")
    parser.add_argument("--terminal", action="store_true", help="the process gets a terminal")
    parser.add_argument("--read-only", action="store_true", help="the root file system is read-only")
    parser.add_argument("--host-network", action="store_true", help="no network namespace")
    common.add_json(parser, f"{MADE}, droppedLabels: those that are reserved")


def run(arguments: argparse.Namespace) -> int:
    entrypoint = arguments.entrypoint
    overrides = Overrides(
        None if entrypoint is None else command_words(entrypoint, "--entrypoint"),
        arguments.command,
        tuple(arguments.env),
        arguments.workdir,
        arguments.user,
        arguments.hostname,
        arguments.terminal,
        arguments.read_only,
        arguments.host_network,
    )
    maps = id_maps(arguments)  # before there are threads
    source, top = common.find(arguments, arguments.image)
    bar = Bar()
    snapshots = None
    try:
        descriptor = resolve(source, top, common.platform(arguments))
        snapshots = _snapshots(arguments, maps)
        bundled = bundle.make(
            bar.watch(source, descriptor),
            descriptor,
            arguments.directory,
            overrides,
            snapshots=snapshots,
            name=arguments.image,
            place=str(common.place(arguments, arguments.image)),
            rootless=arguments.rootless,
            maps=maps,
        )
    finally:
        bar.end()
        if snapshots:
            snapshots.close()
        source.close()
    tell_left_out(bundled.left_out)
    for label in bundled.dropped:
        where = f"label {label}"
        sys.stderr.write(f"oci-image: {ImageError(where, 'is reserved, it does not become an annotation')}\n")
    if arguments.json:
        told = made(arguments, descriptor, bundled.left_out)
        common.print_json({**told, "droppedLabels": bundled.dropped})
    return 0


def _snapshots(arguments: argparse.Namespace, maps: Maps | None) -> Snapshots | None:
    """Where the layers are kept; None: the bundle is a copy of its own."""
    without_root = arguments.rootless or arguments.subordinate
    if arguments.copy or (without_root and not arguments.driver):
        return None
    if arguments.subordinate:
        raise ImageError("--driver", "layers are not shared with --subordinate: the bundle is a copy")
    if arguments.rootless and os.geteuid() == 0:
        raise ImageError("--driver", "layers are not shared with --rootless by root: the bundle is a copy")
    path = snapshots_path(arguments)
    os.makedirs(path, mode=0o700, exist_ok=True)
    target = os.path.dirname(os.path.abspath(arguments.directory))
    if not os.path.isdir(target):
        raise ImageError(target, "does not exist")
    driver, reason = choose(arguments.driver or AUTO, path, target, maps)
    if reason:
        sys.stderr.write(f"oci-image: driver {driver.name}: {printable(reason)}\n")
    return Snapshots(path, driver, arguments.rootless)


def snapshots_path(arguments: argparse.Namespace) -> str:
    return f"{arguments.root}/snapshots"

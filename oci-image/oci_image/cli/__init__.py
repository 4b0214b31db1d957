"""The command line: one module per verb, errors to one line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from typing import NoReturn

from oci_image import __version__
from ocirt.errors import OcirtError

# Verb → what it does, in the order of the help.
VERBS = {
    "images": "list the images of the store",
    "inspect": "show an image",
    "history": "show the steps that made an image",
    "size": "show what the images of the store take and share",
    "tree": "show which images stand on the same layers",
    "verify": "read all of an image and compare every digest",
    "copy": "copy an image from one place to another",
    "load": "take the images of an archive into the store",
    "save": "write images into an archive for docker or as an OCI archive",
    "import": "make an image of a root file system in a tar file",
    "export": "write the root file system of an image as a tar file",
    "cp": "copy files between the host, images and bundles",
    "unpack": "write the root file system of an image into a directory",
    "bundle": "make a bundle of an image, for ocirt run",
    "unbundle": "remove a bundle",
    "mount": "mount the root of a bundle again, after a restart",
    "unmount": "unmount the root of a bundle, which stays",
    "diff": "show what a container changed in its bundle",
    "commit": "make an image of what a container changed",
    "append": "make an image with one more layer",
    "config": "make an image with another config",
    "squash": "make an image with all in one layer",
    "rebase": "make an image that stands on another base",
    "tag": "give an image another name",
    "rm": "take names away; gc frees what no name leads to",
    "gc": "remove the blobs and unpacked layers that nothing needs",
    "fsck": "check every blob and document of the store",
}
ENDING = (signal.SIGTERM, signal.SIGHUP)
ENVIRONMENT = "OCI_IMAGE_ROOT"
SYSTEM_ROOT = "/var/lib/oci-image"
EPILOG = """
IMAGE is a name in the store (busybox, registry.example/team/app:1.0), the beginning of a digest, or
a place: oci:DIR[:NAME], oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], dir:DIR.
"""


class Ended(BaseException):
    """A signal asks to end: what was half made is taken away first, as after an interrupt."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.signal = number


def _end(number: int, _frame: object) -> NoReturn:
    for one in ENDING:  # another one would stop the taking away
        signal.signal(one, signal.SIG_IGN)
    raise Ended(signal.Signals(number))


def command() -> NoReturn:
    """The command oci-image."""
    _open_standard_files()
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)
    sys.exit(main(sys.argv[1:]))


def _open_standard_files() -> None:
    """In the place of those that the caller closed, /dev/null: no blob may get the number of stderr."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, fd)  # an earlier one may have been closed as well
            if null != fd:
                os.close(null)
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a locale cannot write is no reason to fail
            stream.reconfigure(errors="backslashreplace")


def main(argv: list[str]) -> int:
    """Run one command, argv without the program's name; its exit status."""
    parser, verbs = _parser()
    argv, command = _split(argv)
    verb = _verb(argv)
    if verb:
        module = importlib.import_module(f"oci_image.cli.{verb}_")
        module.add_arguments(verbs[verb])
    arguments = parser.parse_args(argv)
    if command is not None and (not verb or not hasattr(module, "COMMAND")):
        parser.error("nothing may follow --")
    arguments.command = command
    if not arguments.verb:
        parser.print_help()
        return 0
    try:
        status: int = module.run(arguments)
        sys.stdout.flush()
        return status
    except OcirtError as error:
        return _failed(arguments, str(error), error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # python flushes at its end
        return 128 + 13
    except OSError as error:
        words = [error.filename, error.strerror or str(error)]
        return _failed(arguments, ": ".join(_text(word) for word in words if word), 1)
    except Ended as error:
        return _failed(arguments, f"ended by {error.signal.name}", 128 + error.signal)
    except KeyboardInterrupt:
        return _failed(arguments, "interrupted", 128 + signal.SIGINT)
    except Exception as error:
        return _failed(arguments, f"internal error: {type(error).__name__}: {error}", 1)


def _split(argv: list[str]) -> tuple[list[str], list[str] | None]:
    """(what stands before --, the command behind it)."""
    if "--" not in argv:
        return argv, None
    at = argv.index("--")
    return argv[:at], argv[at + 1 :]


def _verb(argv: list[str]) -> str:
    """The first word that is no option of the program, if it is a verb."""
    words = iter(argv)
    for word in words:
        if word == "--root":
            next(words, None)
        elif not word.startswith("-"):
            return word if word in VERBS else ""
    return ""


def _text(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, bytes) else str(word)


def _failed(arguments: argparse.Namespace, message: str, status: int) -> int:
    if arguments.debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"oci-image: {message}\n")
    return status


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("oci-image", epilog=EPILOG, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"oci-image {__version__}")
    parser.add_argument(
        "--root", default=default_root(), help="directory of the store (default: %(default)s)"
    )
    parser.add_argument("--debug", action="store_true", help="show where in the program an error came from")
    below = parser.add_subparsers(dest="verb", metavar="COMMAND", title="commands")
    verbs = {
        name: below.add_parser(
            name, help=text, description=text, epilog=EPILOG, formatter_class=form, allow_abbrev=False
        )
        for name, text in VERBS.items()
    }
    return parser, verbs


def default_root() -> str:
    """$OCI_IMAGE_ROOT, /var/lib/oci-image for root, else below the user's data directory."""
    chosen = os.environ.get(ENVIRONMENT)
    if chosen:
        return chosen
    if os.geteuid() == 0:
        return SYSTEM_ROOT
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return f"{data}/oci-image"

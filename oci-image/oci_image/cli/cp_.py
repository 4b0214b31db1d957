"""cp: files and directories between the host, images and bundles, as docker cp copies them."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from oci_image import bundle, copyfiles
from oci_image.cli import common
from oci_image.cli.progress import Bar
from oci_image.cli.unbundle_ import enter_if_subordinate
from oci_image.cli.unpack_ import tell_left_out
from oci_image.copyfiles import HostTree, ImageTree, Incoming, Target, write_incoming, write_source
from oci_image.errors import ImageError
from oci_image.extract import Extractor, Policy
from oci_image.flatten import Node, flatten_image, merged_image
from oci_image.pack import Changes, LayerWriter, derive
from oci_image.transfer import resolve
from oci_image.transports import parse_location

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from oci_image.descriptor import Descriptor
    from oci_image.digest import Reader
    from oci_image.store import Store
    from oci_image.transports import Source

    Made = tuple[dict[str, str], dict[str, int]]  # members for --json, what could not be made as it was

HOST, IMAGE, BUNDLE, STREAM = "host", "image", "bundle", "stream"
EPILOG = """
SOURCE and TARGET are each IMAGE:/PATH, bundle:DIR:/PATH, a path of the host (which begins with / or .
where it holds ":/"), or "-", a tar stream. SOURCE/. is what a directory holds. A new layer holds what
goes into an image, of which a new one is made.
"""


class End(NamedTuple):
    """One side of a copy: where (an IMAGE or the directory of a bundle) and the path in it."""

    kind: str
    where: str
    path: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG + (parser.epilog or "")
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("target", metavar="TARGET", help="a new name, or a directory to put it into")
    text = "owners stay (default: root's in an image or a bundle, one's own on the host)"
    parser.add_argument("-a", "--archive", action="store_true", help=text)
    parser.add_argument("-L", "--follow-link", action="store_true", help="follow a symlink that is SOURCE")
    parser.add_argument("--name", metavar="NAME", help="of the image that is made (default: TARGET's own)")
    common.add_platform(parser)
    common.add_json(
        parser, "source and target, name and digest of an image that is made; not beside TARGET -"
    )


def run(arguments: argparse.Namespace) -> int:
    source, target = _end(arguments.source), _end(arguments.target)
    if not {source.kind, target.kind} & {IMAGE, BUNDLE}:
        raise ImageError("cp", "neither SOURCE nor TARGET is IMAGE:/PATH or bundle:DIR:/PATH")
    if arguments.name and target.kind != IMAGE:
        raise ImageError("--name", "means nothing where TARGET is no image")
    for what, text in (("SOURCE", arguments.source), ("TARGET", arguments.target)):
        if not text:  # an unset variable, and not the root of the host
            raise ImageError(what, "is empty")
    if target.kind == STREAM and arguments.json:
        raise ImageError("--json", "stdout is taken by a tar stream")
    if target.kind == STREAM and sys.stdout.isatty():
        raise ImageError("stdout", "is a terminal, which a tar stream would spoil")
    enter_if_subordinate([end.where for end in (source, target) if end.kind == BUNDLE])
    with tempfile.TemporaryFile(dir=os.environ.get("TMPDIR", "/var/tmp")) as spool, Bar() as bar:
        name = _read(arguments, source, bar.writer(spool.write))
        bar.expect(spool.tell())  # was read; as much is written now
        spool.seek(0)
        contents = source.path.endswith(b"/.") or source.path == b"."
        made, left_out = _WRITE[target.kind](
            arguments, target, bar.reader(spool, spool.fileno()), name, contents
        )
    tell_left_out(left_out)
    if arguments.json:
        common.print_json({"source": arguments.source, "target": arguments.target, **made})
    elif made:
        print(made["digest"])
    return 0


def _end(text: str) -> End:
    if text == "-":
        return End(STREAM, "", b"")
    where, colon, path = text.rpartition(":/")
    if not colon or text.startswith(("/", ".")):
        return End(HOST, "", os.fsencode(text))
    kind, prefix = (BUNDLE, "bundle:") if where.startswith("bundle:") else (IMAGE, "")
    return End(kind, where.removeprefix(prefix), os.fsencode(path) or b".")


def _read(arguments: argparse.Namespace, source: End, write: Callable[[bytes], object]) -> bytes | None:
    """Write what is copied as a tar stream; its name, None for a stream of the user's own."""
    follow = arguments.follow_link
    if source.kind == STREAM:
        while data := sys.stdin.buffer.read(1 << 20):
            write(data)
        return None
    if source.kind == IMAGE:
        place, descriptor = _image(arguments, source.where)
        try:
            found = flatten_image(place, descriptor, write, source.path, follow)
        finally:
            place.close()
        return _own_name(source.path) or found
    if source.kind == BUNDLE:
        with bundle.opened_root(source.where) as (root_fd, record):
            tree = HostTree(root_fd, source.where)
            found = write_source(tree, source.path, write, follow, bundle.shift_of(record))
        return _own_name(source.path) or found
    slash = source.path.endswith((b"/", b"/."))
    parent, last = _on_host(source.path, follow or slash)
    with _opened(parent) as fd:
        tree = HostTree(fd, os.fsdecode(parent))
        write_source(tree, last + (b"/" if slash else b""), write, follow=False)
    return _own_name(source.path) or last


def _own_name(path: bytes) -> bytes:
    """The name that a copy gets: that of a symlink also where it was followed; b"" for . and .."""
    name = os.path.basename(path.rstrip(b"/"))
    return name if name not in (b".", b"..") else b""


def _image(arguments: argparse.Namespace, where: str) -> tuple[Source, Descriptor]:
    source, top = common.find(arguments, where)
    try:
        return source, resolve(source, top, common.platform(arguments))
    except BaseException:
        source.close()
        raise


def _on_host(path: bytes, follow: bool) -> tuple[bytes, bytes]:
    """(parent, name), by the links of the host; follow also one at the end."""
    path = path.rstrip(b"/") or b"/"
    if follow or os.path.basename(path) in (b"", b".", b".."):
        return os.path.split(os.path.realpath(path))
    return os.path.realpath(os.path.dirname(path)), os.path.basename(path)


@contextmanager
def _opened(path: bytes) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = copyfiles.MISSING if isinstance(error, FileNotFoundError) else os.strerror(error.errno or 0)
        raise ImageError(os.fsdecode(path), reason) from None
    try:
        yield fd
    finally:
        os.close(fd)


# Each kind of target


def _to_stream(
    arguments: argparse.Namespace, end: End, spool: Reader, name: bytes | None, contents: bool
) -> Made:
    nothing = ImageTree(Node(None, 0), "")
    target = Target(nothing, b".", archive=True, image=False)
    write_incoming(Incoming(spool, name, contents, target), sys.stdout.buffer.write)
    return {}, {}


def _to_host(
    arguments: argparse.Namespace, end: End, spool: Reader, name: bytes | None, contents: bool
) -> Made:
    if os.path.isdir(end.path):
        parent, path = end.path, b"."
    else:
        slash = b"/" if end.path.endswith(b"/") else b""
        parent, path = _on_host(end.path, follow=True)
        path += slash
    root = os.geteuid() == 0
    with _opened(parent) as fd:
        owner = (os.geteuid(), os.getegid()) if root else (0, 0)  # the user's, to an Extractor for one user
        target = Target(HostTree(fd, os.fsdecode(parent)), path, owner, arguments.archive, image=False)
        incoming = Incoming(spool, name, contents, target)
        return {}, _extract(fd, incoming, os.fsdecode(end.path), Policy(single=not root))


def _to_bundle(
    arguments: argparse.Namespace, end: End, spool: Reader, name: bytes | None, contents: bool
) -> Made:
    with bundle.opened_root(end.where) as (root_fd, record):
        target = Target(HostTree(root_fd, end.where), end.path, archive=arguments.archive)
        incoming = Incoming(spool, name, contents, target)
        return {}, _extract(root_fd, incoming, end.where, bundle.policy_of(record))


def _extract(root_fd: int, incoming: Incoming, where: str, policy: Policy) -> dict[str, int]:
    """What could not be made as it was."""
    extractor = Extractor(root_fd, policy, into=True)
    try:
        extractor.apply(incoming, where)
        extractor.finish()
    finally:
        extractor.close()
    return dict(extractor.left_out)


def _to_image(
    arguments: argparse.Namespace, end: End, spool: Reader, name: bytes | None, contents: bool
) -> Made:
    with common.open_store(arguments) as store:
        made_name = _name_for(arguments, end.where, store)
        source, descriptor = _image(arguments, end.where)
        try:
            tree = ImageTree(merged_image(source, descriptor), end.where)
            target = Target(tree, end.path, archive=arguments.archive)
            with store.importing() as session, LayerWriter(session) as writer:
                write_incoming(Incoming(spool, name, contents, target), writer.write)
                layer = writer.finish()
                changes = Changes(created_by=f"oci-image cp {arguments.source} {arguments.target}")
                made = derive(source, descriptor, store, session, changes, layer)
                session.set_name(made_name, made)
        finally:
            source.close()
    return {"name": made_name, "digest": made["digest"]}, {}


def _name_for(arguments: argparse.Namespace, where: str, store: Store) -> str:
    """The name in the store that the new image gets."""
    if arguments.name:
        return common.store_name(arguments.name)
    reason = f"is needed: {where} is no name in the store"
    if parse_location(where):
        raise ImageError("--name", reason)
    try:
        store.find(common.store_name(where))
    except ImageError:
        raise ImageError("--name", reason) from None
    return common.store_name(where)


_WRITE = {STREAM: _to_stream, HOST: _to_host, BUNDLE: _to_bundle, IMAGE: _to_image}

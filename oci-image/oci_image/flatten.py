"""The root file system of an image as one tar stream, without unpacking it or being root.

The layers are read twice: first their entries are merged into a tree, then what is left of each
is written. A parent that is a symlink is followed within the root, as unpacking does. Directories
come first, so that their modes hold from the start (GNU tar gives them their times with
--delay-directory-restore).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

from oci_image import descriptor as documents
from oci_image import tarwrite
from oci_image.errors import ImageError
from oci_image.layer import ADD, CLEAR, Layer, show
from oci_image.tarstream import BLOCK, DIRECTORY, FILE, HARDLINK, SYMLINK
from oci_image.transfer import read_config, read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_image.descriptor import Descriptor
    from oci_image.layer import Change
    from oci_image.tarstream import Entry
    from oci_image.transports import Source

    Opener = Callable[[], Layer]

MAX_LINKS = 40  # symlinks in one path, as in the kernel


class Content(Protocol):
    """What a layer offers of its current entry."""

    def data(self) -> Iterator[memoryview]: ...


class _Inode:
    """What one entry made; names of it beyond the first are hardlinks."""

    __slots__ = ("entry", "key", "name")

    def __init__(self, entry: Entry, key: tuple[int, int]) -> None:
        self.entry = entry
        self.key = key  # layer and number of the entry
        self.name = b""


class Node:
    """A name in the tree. layer is the one that made or last changed it."""

    __slots__ = ("children", "inode", "layer")

    def __init__(self, inode: _Inode | None, layer: int) -> None:
        self.inode = inode  # None: a parent that no layer has an entry for
        self.layer = layer
        self.children: dict[bytes, Node] = {}

    @property
    def is_directory(self) -> bool:
        return self.inode is None or self.inode.entry.kind == DIRECTORY


def flatten_image(
    source: Source,
    descriptor: Descriptor,
    write: Callable[[bytes], object],
    only: bytes = b"",
    follow: bool = False,
) -> bytes:
    """Write the root file system of an image (its manifest's descriptor) as a tar stream.

    only is a path in it: what is there is written as if it were the root, or, if it is no directory,
    as one entry with its own name, which is given. follow: a symlink there is followed, as it is
    where only ends with a slash. Raises ImageError where there is nothing.
    """
    where, layers = _opened(source, descriptor)
    return flatten(layers, write, where, only, follow)


def merged_image(source: Source, descriptor: Descriptor) -> Node:
    """The root of the tree that an image has."""
    where, layers = _opened(source, descriptor)
    return _merged(layers, where)


def _opened(source: Source, descriptor: Descriptor) -> tuple[str, list[Opener]]:
    _, manifest = read_document(source, descriptor)
    where = f"{source.where}: {descriptor['digest']}"
    layers = documents.check_image(manifest, read_config(source, manifest), where)

    def opener(layer: Descriptor, diff_id: str) -> Opener:
        return lambda: Layer(source.open_blob(layer), diff_id, f"{source.where}: {layer['digest']}")

    return where, [opener(layer, diff_id) for layer, diff_id in layers]


def _merged(layers: list[Opener], where: str) -> Node:
    root = Node(None, 0)
    for number, open_layer in enumerate(layers):
        with open_layer() as layer:
            for i, change in enumerate(layer.changes()):
                _apply(root, change, number, i, where)
    return root


def flatten(
    layers: list[Opener],
    write: Callable[[bytes], object],
    where: str,
    only: bytes = b"",
    follow: bool = False,
) -> bytes:
    """Write the merged tree of layers, lowest first, as a tar stream; the rest as for flatten_image."""
    root = _merged(layers, where)
    slash = only.endswith((b"/", b"/."))
    found, top = resolve(root, only, where, follow or slash)
    if top is None:
        raise ImageError(where, f"{show(only)}: there is no such file or directory")
    if slash and not top.is_directory:
        raise ImageError(where, f"{show(only)}: is not a directory")
    own_name = found.rpartition(b"/")[2]
    files: dict[tuple[int, int], _Inode] = {}
    others: list[tuple[bytes, _Inode]] = []
    for path, node in _walk(top, b"" if top.is_directory else own_name):
        inode = node.inode
        if inode is None or inode.entry.kind == DIRECTORY:
            _write_entry(write, path + b"/" if path else b"./", inode)
        elif not inode.name and inode.entry.kind == FILE:
            inode.name = path
            files[inode.key] = inode
        else:
            others.append((path, inode))
    for number, open_layer in enumerate(layers):
        if any(key[0] == number for key in files):
            with open_layer() as layer:
                for i, _ in enumerate(layer.changes()):
                    if wanted := files.get((number, i)):
                        write_file(write, wanted.name, wanted.entry, layer)
    for path, inode in others:
        if inode.name:
            write(tarwrite.header(path, kind=HARDLINK, linkname=inode.name, mode=inode.entry.mode))
        else:
            inode.name = path
            _write_entry(write, path, inode)
    write(tarwrite.END)
    return own_name


def _apply(root: Node, change: Change, number: int, i: int, where: str) -> None:
    parent_path, _, name = change.path.rpartition(b"/")
    if change.what != ADD:
        _hide(root, change, number, where)
        return
    inode = _Inode(change.entry, (number, i))
    if not change.path:
        root.inode, root.layer = inode, number
        return
    parent = _make_parents(root, parent_path, number, where)
    if change.entry.kind == HARDLINK:
        target = _find(root, change.target, where, follow=False)
        if target is None or target.inode is None or target.is_directory:
            raise ImageError(
                where, f"{show(change.path)}: is a hardlink to {show(change.target)}, which is no file"
            )
        inode = target.inode
    there = parent.children.get(name)
    node = Node(inode, number)
    if there is not None and there.is_directory and node.is_directory:
        node.children = there.children
    parent.children[name] = node


def _hide(root: Node, change: Change, number: int, where: str) -> None:
    """A whiteout; as in unpacking, not through a symlink."""
    parent = root
    directory = change.path if change.what == CLEAR else change.path.rpartition(b"/")[0]
    for part in directory.split(b"/") if directory else ():
        if part not in parent.children:
            return
        parent = parent.children[part]
        if parent.inode and parent.inode.entry.kind == SYMLINK:
            raise ImageError(where, f"{show(change.path)}: is hidden through a symlink")
    if change.what == CLEAR:
        _remove_lower(parent, number)
        return
    name = change.path.rpartition(b"/")[2]
    node = parent.children.get(name)
    if node is not None and not _remove_lower(node, number):
        del parent.children[name]


def _remove_lower(top: Node, number: int) -> bool:
    """Take away what lower layers put below top; is anything of this one left, top included?"""
    stack = [top]
    order = []
    while stack:
        node = stack.pop()
        order.append(node)
        stack += node.children.values()
    for node in reversed(order):
        for name, child in list(node.children.items()):
            if child.layer != number and not child.children:
                del node.children[name]
    return bool(top.children) or top.layer == number


def resolve(root: Node, path: bytes, where: str, follow: bool = True) -> tuple[bytes, Node | None]:
    """(path without symlinks, the node there or None); without follow the last component may be one.

    Where a component is missing, the rest of the path is as it was. Raises ImageError for a loop.
    """
    parts = path.split(b"/")[::-1]
    trail = [(b"", root)]
    links = 0
    while parts:
        part = parts.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if len(trail) > 1:
                trail.pop()
            continue
        node = trail[-1][1].children.get(part)
        if node is None:
            return b"/".join([name for name, _ in trail[1:]] + [part, *filter(None, parts[::-1])]), None
        if node.inode and node.inode.entry.kind == SYMLINK and (follow or any(parts)):
            links += 1
            if links > MAX_LINKS:
                raise ImageError(where, f"{show(path)}: too many symlinks")
            link = node.inode.entry.linkname
            if link.startswith(b"/"):
                del trail[1:]
            parts += link.split(b"/")[::-1]
            continue
        trail.append((part, node))
    return b"/".join(name for name, _ in trail[1:]), trail[-1][1]


def _find(root: Node, path: bytes, where: str, follow: bool) -> Node | None:
    return resolve(root, path, where, follow)[1]


def _make_parents(root: Node, path: bytes, number: int, where: str) -> Node:
    node = _find(root, path, where, follow=True)
    if node is None:
        parent_path, _, name = path.rpartition(b"/")
        parent = _make_parents(root, parent_path, number, where)
        if name in parent.children:
            raise ImageError(where, f"{show(path)}: is a symlink that leads nowhere")
        node = parent.children[name] = Node(None, number)
    if not node.is_directory:
        raise ImageError(where, f"{show(path)}: is not a directory")
    return node


def _walk(top: Node, name: bytes) -> Iterator[tuple[bytes, Node]]:
    """(path, node), parents first, sorted; the path of top is name."""
    stack = [(name, top)]
    while stack:
        path, node = stack.pop()
        yield path, node
        for name in sorted(node.children, reverse=True):
            stack.append((path + b"/" + name if path else name, node.children[name]))


def _fields(entry: Entry) -> dict[str, object]:
    names = ("kind", "mode", "uid", "gid", "mtime", "linkname", "major", "minor", "xattrs", "acls")
    return {name: getattr(entry, name) for name in names}


def _write_entry(write: Callable[[bytes], object], path: bytes, inode: _Inode | None) -> None:
    if inode is None:
        write(tarwrite.header(path, kind=DIRECTORY, mode=0o755))
    else:
        write_header(write, path, inode.entry)


def write_header(write: Callable[[bytes], object], path: bytes, entry: Entry) -> None:
    """An entry that is no file, under another name."""
    write(tarwrite.header(path, **_fields(entry)))  # type: ignore[arg-type]


def write_file(write: Callable[[bytes], object], name: bytes, entry: Entry, layer: Content) -> None:
    """A file whose entry layer is at, with its content.

    Holes stay holes: a terabyte of them in a small layer would else fill the disk.
    """
    if entry.sparse is None:
        write(tarwrite.header(name, entry.size, **_fields(entry)))  # type: ignore[arg-type]
        for piece in layer.data():
            write(piece)  # type: ignore[arg-type]
        write(tarwrite.padding(entry.size))
        return
    blocks = _whole_blocks(entry.sparse, entry.size)
    table = tarwrite.sparse_map([(begin, end - begin) for begin, end in blocks], entry.size)
    size = len(table) + sum(end - begin for begin, end in blocks)
    write(tarwrite.header(name, size, sparse_size=entry.size, **_fields(entry)))  # type: ignore[arg-type]
    write(table)
    _write_blocks(write, blocks, entry.sparse, layer.data())
    write(tarwrite.padding(size))


def _whole_blocks(regions: list[tuple[int, int]], size: int) -> list[tuple[int, int]]:
    """(begin, end) of the data in whole blocks: GNU tar pads every region to one, others only the last."""
    found: list[tuple[int, int]] = []
    for offset, length in regions:
        if length:
            begin = offset - offset % BLOCK
            end = min(offset + length + -(offset + length) % BLOCK, size)
            if found and begin <= found[-1][1]:
                begin = found.pop()[0]
            found.append((begin, end))
    return found


def _write_blocks(
    write: Callable[[bytes], object],
    blocks: list[tuple[int, int]],
    regions: list[tuple[int, int]],
    pieces: Iterator[memoryview],
) -> None:
    """The data of regions, and the zeros between them that are needed for whole blocks."""
    left = deque(regions)
    rest = memoryview(b"")
    for begin, end in blocks:
        at = begin
        while left and left[0][0] < end:
            offset, missing = left.popleft()
            write(bytes(max(0, offset - at)))
            at = max(at, offset + missing)
            while missing:
                rest = rest or next(pieces)
                taken = min(missing, len(rest))
                write(rest[:taken])  # type: ignore[arg-type]
                rest = rest[taken:]
                missing -= taken
        write(bytes(end - at))

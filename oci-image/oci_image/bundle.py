"""Bundles: a directory with config.json and rootfs, as `ocirt run` takes it; made whole or not at all.

config.json      by conversion
rootfs           the image: an overlay on its snapshots, or a tree of its own
upper, work      of an overlay: what the container changes
volumes/N        the image's Volumes, with what the image has there
oci-image.json   what unbundle, mount, diff and commit need to know
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import stat
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image import drivers, fuse_overlay
from oci_image.compare import compared
from oci_image.conversion import Overrides, checked, convert
from oci_image.copytree import copy_tree
from oci_image.diff import upper_changes
from oci_image.drivers import ROOTFS, TREE, UPPER
from oci_image.errors import ImageError, NotInStore
from oci_image.extract import Policy
from oci_image.removal import remove_tree
from oci_image.snapshots import Snapshots, opened, tree_of
from oci_image.transfer import read_config, read_document
from oci_image.transports import open_source, parse_location
from oci_image.unpack import apply_image, new_directory, temporary_name
from oci_image.userns import of_record
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.diff import Change
    from oci_image.drivers import Driver
    from oci_image.transports import Source
    from oci_image.userns import Maps

RECORD = "oci-image.json"
REGISTER = "bundles"  # below the directory of the snapshots: which bundles stand on them
MOUNTS = "/proc/self/mountinfo"
COPY = "copy"
TICK = 0.01  # seconds between two values of the clock that ctimes are taken from, at most
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Made(NamedTuple):
    """What there is to tell about a new bundle: labels that did not become annotations, what the file
    system or the user's rights did not allow (Extractor.left_out).
    """

    dropped: list[str]
    left_out: dict[str, int]


def make(
    source: Source,
    descriptor: Descriptor,
    directory: str,
    overrides: Overrides = Overrides(),  # noqa: B008
    *,
    snapshots: Snapshots | None = None,
    name: str = "",
    place: str = "",
    rootless: bool = False,
    maps: Maps | None = None,
) -> Made:
    """Make a bundle of an image (its manifest's descriptor). name and place (TRANSPORT:PATH, where
    commit finds the image again) are recorded. maps: the container gets a user namespace, and files
    the ids of the host that they name. rootless: for a user without root, who owns all, or with maps
    has entered that namespace already.

    With snapshots the root stands on them; without, it is a copy of the image's own. Raises
    ImageError, and nothing is left then.
    """
    _, manifest = read_document(source, descriptor)
    image = read_config(source, manifest)
    directory = os.path.abspath(directory)
    record: dict[str, Any] = {
        "image": name,
        "place": place,
        "manifest": documents.plain(descriptor),
        "driver": COPY,
        "rootless": rootless,
        "maps": maps.as_record() if maps else None,
    }
    left_out: dict[str, int] = {}
    try:
        if snapshots:
            _note(snapshots, directory, record)
        with new_directory(directory) as (path, fd):
            if maps and not rootless:
                os.fchown(fd, 0, maps.root()[1])  # the container's root has to get to its own
                os.fchmod(fd, 0o710)
            if snapshots is None:
                left_out = _unpack(source, descriptor, fd, ROOTFS, record)
            else:
                with snapshots.using():
                    record["chains"] = snapshots.prepare(source, descriptor)
                    _register(record, directory)
                _driver(record).fill(trees(record), path, maps)
            with _seen(record, path) as root_fd:
                converted = convert(image, root_fd, overrides, rootless, maps)
                shift = maps if maps and not rootless else None
                _add_volumes(converted.spec, converted.volumes, root_fd, fd, directory, shift)
                checked(converted.spec)
            _write(fd, "config.json", documents.encode(converted.spec, "\t") + b"\n")
            if snapshots is None:
                time.sleep(TICK)  # what is older than this moment is as it was made: compare.py
            record["made"] = _clock(fd)
            _write(fd, RECORD, documents.encode(record) + b"\n", 0o600)
        # Last, because what is mounted cannot be removed so easily; and anew, so that mountinfo tells the
        # directories by the names that they have now.
        if snapshots is not None:
            try:
                snapshots.driver.attach(trees(record), directory, maps)
            except BaseException:
                snapshots.driver.detach(directory)  # a signal may have come behind the mount
                _remove_directory(directory, record)
                raise
    except BaseException:
        _unregister(record, directory)
        raise
    return Made(converted.dropped, left_out)


def _unpack(
    source: Source, descriptor: Descriptor, directory_fd: int, name: str, record: dict[str, Any]
) -> dict[str, int]:
    """The image's tree, of its own, as the record of a bundle says; what was left out."""
    os.mkdir(name, 0o755, dir_fd=directory_fd)
    root_fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory_fd)
    _, left_out = _closing(root_fd, apply_image, source, descriptor, root_fd, policy_of(record))
    return dict(left_out)


def _note(snapshots: Snapshots, directory: str, record: dict[str, Any]) -> None:
    """Register a bundle that is going to stand on these snapshots, and write them into its record."""
    record |= {"driver": snapshots.driver.name, "chains": [], "id": os.urandom(8).hex()}
    record |= {"snapshots": os.path.dirname(snapshots.path), "layers": snapshots.path}
    _register(record, directory)


def policy_of(record: dict[str, Any]) -> Policy:
    """How files are made in the root of a bundle."""
    rootless, maps = record["rootless"], _maps(record)
    return Policy(rootless and maps is None, rootless, shift_of(record))


def shift_of(record: dict[str, Any]) -> Maps | None:
    """Maps by which owners in the root of a bundle are other ids than the container's."""
    return None if record["rootless"] else _maps(record)


@contextmanager
def opened_root(directory: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(fd of the root of a bundle, as its container sees it but for mounts, record). Raises ImageError."""
    directory = os.path.abspath(directory)
    with _locked(directory) as (_, record):
        if record["driver"] != COPY and _driver(record).mounts and not is_mounted(directory):
            raise ImageError(directory, "its root is not mounted (oci-image mount does it)")
        with _opened(f"{directory}/{ROOTFS}") as root_fd:
            yield root_fd, record


def _driver(record: dict[str, Any]) -> Driver:
    return drivers.find(record["driver"])


def _maps(record: dict[str, Any]) -> Maps | None:
    return of_record(record["maps"]) if record.get("maps") else None


def _seen(record: dict[str, Any], directory: str) -> AbstractContextManager[int]:
    """Fd of the root of a bundle that nothing uses yet."""
    if record["driver"] == COPY:
        return _opened(f"{directory}/{ROOTFS}")
    return _driver(record).view(trees(record), directory, _maps(record))


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


def _closing(fd: int, call: Any, *arguments: Any) -> Any:
    """The call's result; fd is closed."""
    try:
        return call(*arguments)
    finally:
        os.close(fd)


def _write(directory_fd: int, name: str, data: bytes, mode: int = 0o644) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, mode, dir_fd=directory_fd)
    try:
        kernel.write_all(fd, data)
    finally:
        os.close(fd)


def _add_volumes(
    spec: dict[str, Any], volumes: list[str], root_fd: int, fd: int, final: str, maps: Maps | None
) -> None:
    """A directory of the bundle for each volume, with what the image has there, and its mount.

    One of which the image has nothing belongs to the container's root. The path is resolved below
    the root: a symlink never leads to the host (CVE-2022-23648).
    """
    if not volumes:
        return
    os.mkdir("volumes", 0o711, dir_fd=fd)
    for i, path in enumerate(volumes):
        os.mkdir(f"volumes/{i}", 0o755, dir_fd=fd)
        target = os.open(f"volumes/{i}", _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            resolve = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
            try:
                there = kernel.openat2(root_fd, path, os.O_RDONLY | os.O_DIRECTORY, 0, resolve)
            except (FileNotFoundError, NotADirectoryError):
                there = -1
            except OSError as error:
                raise ImageError(f"config.Volumes: {path}", os.strerror(error.errno or 0)) from None
            if there >= 0:
                _closing(there, copy_tree, there, target)
            elif maps:
                os.fchown(target, *maps.root())
        finally:
            os.close(target)
        options = ["rbind", "rw", "nodev", "rprivate"]
        source = f"{final}/volumes/{i}"
        spec["mounts"].append({"destination": path, "type": "bind", "source": source, "options": options})


def remove(directory: str) -> None:
    """Unmount and remove a bundle, and what its container changed. Raises ImageError.

    The container must have been deleted before: while a process has its root there, this is an error,
    and so is anything else that is mounted in it.
    """
    directory = os.path.abspath(directory)
    with _locked(directory) as (fd, record):
        _check_unused(directory)
        _check_mounts(fd, directory, record["driver"] != COPY and _driver(record).mounts)
        if record["driver"] != COPY:
            _driver(record).detach(directory)
            _tell_store(record, directory)  # as ours, so that gc finds what is left if we are killed
        parent, name = os.path.split(directory)
        half = f"{parent}/{temporary_name(name, os.getpid())}"
        os.rename(directory, half)
        _remove_directory(half, record)
        _unregister(record, directory)


def _remove_directory(directory: str, record: dict[str, Any]) -> None:
    parent, name = os.path.split(directory)
    with _opened(parent) as parent_fd:
        if record["driver"] == COPY:
            remove_tree(parent_fd, name)
        else:
            _driver(record).remove(parent_fd, name)


def mount(directory: str) -> None:
    """Mount the root of a bundle again, after a restart of the machine or an unmount. Raises ImageError.

    Nothing happens where it is mounted, and not by a server that has ended, or is a tree of its own; but
    gc gets to know where it is now.
    """
    directory = os.path.abspath(directory)
    with _locked(directory) as (_, record):
        if record["driver"] == COPY:
            return
        _tell_store(record, directory)
        if not _driver(record).mounts or is_mounted(directory):
            return
        for tree in trees(record):
            if not os.path.isdir(tree):
                raise ImageError(tree, "is missing: the bundle's root stands on it")
        _driver(record).detach(directory)  # a mount whose server has ended
        _driver(record).attach(trees(record), directory, _maps(record))


def unmount(directory: str) -> None:
    """Unmount the root of a bundle, which stays as it is. Raises ImageError: also while it is used."""
    with _locked(directory) as (_, record):
        _check_unused(directory)
        if record["driver"] != COPY:
            _driver(record).detach(os.path.abspath(directory))


def _check_unused(directory: str) -> None:
    """Raises ImageError while a process has its root in the bundle: in its own mount namespace a
    container would keep what is unmounted here.
    """
    try:
        root = os.stat(f"{directory}/{ROOTFS}", follow_symlinks=False)
    except OSError:
        return  # it is not there, or its server has died
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            status = os.stat(f"/proc/{pid}/root")
        except OSError:
            continue  # it has ended, or is another user's
        if (status.st_dev, status.st_ino) == (root.st_dev, root.st_ino):
            raise ImageError(directory, f"is used: the process {pid} has its root there")


def _check_mounts(fd: int, directory: str, root_is_mount: bool) -> None:
    """Raises ImageError if there are mounts in a bundle but that of its root: what is mounted is not
    the bundle's, to be removed with it.
    """
    real = os.readlink(f"/proc/self/fd/{fd}")
    lines = kernel.read_file(MOUNTS).split(b"\n")
    mounted = (os.fsdecode(_unescaped(line.split(b" ", 5)[4])) for line in lines if line)
    points = [point for point in mounted if point.startswith(f"{real}/")]
    if root_is_mount and f"{real}/{ROOTFS}" in points:
        points.remove(f"{real}/{ROOTFS}")  # one mount: what lies on top of it stays in the list
    if points:
        raise ImageError(directory, f"something is mounted in it, on {points[0]}")


def is_mounted(directory: str) -> bool:
    """Is something mounted on the root of the bundle?"""
    return os.path.ismount(f"{directory}/{ROOTFS}")


@contextmanager
def _locked(directory: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(fd, record) of a bundle that nobody else mounts, unmounts or removes meanwhile. Raises ImageError."""
    try:
        fd = os.open(directory, _DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ImageError(directory, os.strerror(error.errno or 0)) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd, read_record(fd, directory)
    finally:
        os.close(fd)


class Changes(NamedTuple):
    """What the container of a bundle changed, the bundle's record, and the maps of the owners in it."""

    changes: Iterator[Change]
    record: dict[str, Any]
    maps: Maps | None


@contextmanager
def changes(directory: str) -> Iterator[Changes]:
    """The changes in a bundle, whatever its driver; to be read within the block. Raises ImageError.

    Of a copy, the image is unpacked once more beside it, for the time of the block.
    """
    directory = os.path.abspath(directory)
    with _locked(directory) as (fd, record):
        maps = _maps(record)
        if record["driver"] == COPY:
            with _unpacked(fd, record, directory) as old_fd, _opened(f"{directory}/{ROOTFS}") as new_fd:
                yield Changes(compared(old_fd, new_fd, _made(record)), record, shift_of(record))
        elif _driver(record).mounts:
            shift = maps if _driver(record).shifts else None
            with _opened(f"{directory}/{UPPER}") as upper_fd:
                yield Changes(upper_changes(upper_fd, trees(record), shift), record, shift)
        else:
            below = _opened(trees(record)[-1]) if record["chains"] else _unpacked(fd, record, directory)
            with below as old_fd, _opened(f"{directory}/{ROOTFS}") as new_fd:
                yield Changes(compared(old_fd, new_fd, _made(record), maps), record, maps)


def _clock(fd: int) -> int:
    """Now, in nanoseconds, as the file system of a directory tells ctimes."""
    os.utime(fd)
    return os.fstat(fd).st_ctime_ns


def _made(record: dict[str, Any]) -> int:
    """When a bundle was made, in nanoseconds; 0 where that is not known. The ctime of a file would not
    do: in a copy of the bundle it may be later than those of what the container changed.
    """
    made = record.get("made")
    return made if isinstance(made, int) else 0


@contextmanager
def _unpacked(fd: int, record: dict[str, Any], directory: str) -> Iterator[int]:
    """Fd of the tree that the image of a bundle has, for the time of the block."""
    source = source_of(record, directory)
    name = f".image-{os.getpid()}"
    try:
        _unpack(source, image_of(record, directory), fd, name, record)
        with _opened(f"/proc/self/fd/{fd}/{name}") as root_fd:
            yield root_fd
    finally:
        source.close()
        remove_tree(fd, name)


def source_of(record: dict[str, Any], directory: str) -> Source:
    """The place that has a bundle's image; close it. Raises ImageError."""
    place = parse_location(record.get("place") or "")
    if not place:
        raise ImageError(directory, "its record does not say where its image is")
    return open_source(place)


def image_of(record: dict[str, Any], directory: str) -> Descriptor:
    """The manifest of a bundle's image."""
    return documents.check_descriptor(record.get("manifest"), f"{directory}: manifest")


def is_subordinate(directory: str) -> bool:
    """Was this bundle made with subordinate ids? False for what is no bundle of ours."""
    try:
        with _opened(directory) as fd:
            record = read_record(fd, directory)
    except (OSError, ImageError):
        return False
    return bool(record.get("rootless") and record.get("maps"))


def trees(record: dict[str, Any]) -> list[str]:
    """The directories of a bundle's layers, lowest first."""
    return [tree_of(record["layers"], chain) for chain in record["chains"]]


def read_record(fd: int, where: str) -> dict[str, Any]:
    """What oci-image.json of a bundle says. Raises ImageError for a directory that is no bundle of ours."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        file = os.open(RECORD, flags, dir_fd=fd)
    except OSError:
        raise NotInStore(where, f"is not a bundle that oci-image made: it has no {RECORD}") from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{where}/{RECORD}", "is not a regular file")
        if status.st_uid not in (0, os.geteuid()):  # it says what to unmount and to remove
            raise ImageError(f"{where}/{RECORD}", f"belongs to the user {status.st_uid}")
        record = documents.parse(kernel.read_all(file, documents.MAX_DOCUMENT), f"{where}/{RECORD}")
    finally:
        os.close(file)
    if record.get("driver") != COPY and record.get("driver") not in drivers.DRIVERS:
        raise ImageError(f"{where}/{RECORD}", "names no driver that is known")
    return record


# Which bundles stand on the snapshots


def _register(record: dict[str, Any], directory: str) -> None:
    path = _entry(record, directory)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    entry = {"path": directory, "driver": record["driver"], "chains": record["chains"], "pid": os.getpid()}
    entry["fsid"] = _fsid(os.path.dirname(directory))
    temporary = f"{os.path.dirname(path)}/.{record['id']}.{os.getpid()}"
    with open(temporary, "xb") as file:
        file.write(documents.encode(entry))
    os.rename(temporary, path)


def _tell_store(record: dict[str, Any], directory: str) -> None:
    """Register a bundle anew, where the store can be written."""
    try:
        _register(record, directory)
    except OSError as error:
        if error.errno != kernel.EROFS:  # where no gc can run either
            raise


def _entry(record: dict[str, Any], directory: str) -> str:
    """The file that registers a bundle at a path: one that was copied or moved has another there."""
    place = hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    return f"{record['snapshots']}/{REGISTER}/{record['id']}-{place}.json"


def _unregister(record: dict[str, Any], directory: str) -> None:
    if isinstance(record.get("snapshots"), str) and str(record.get("id", "")).isalnum():
        try:
            os.unlink(_entry(record, directory))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != kernel.EROFS:  # gc forgets it once the store can be written again
                raise


def used_chains(snapshots_directory: str) -> set[str]:
    """ChainIDs on which bundles stand; entries of bundles that are gone are removed."""
    found = _mounted_chains(snapshots_directory)
    register = f"{snapshots_directory}/{REGISTER}"
    for name in os.listdir(register) if os.path.isdir(register) else ():
        if name.startswith("."):
            if not os.path.exists(f"/proc/{name.rpartition('.')[2]}"):
                os.unlink(f"{register}/{name}")
            continue
        entry = _read_entry(f"{register}/{name}")
        if _stands(entry, name.partition("-")[0]) or _is_out_of_sight(entry):
            found.update(entry["chains"])
        else:
            _remove_half_made(entry)
            os.unlink(f"{register}/{name}")
    return found


def _fsid(directory: str) -> int:
    """Of the file system that a directory lies on; 0 for one that a restart empties."""
    fd = os.open(directory, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        volatile = kernel.fstatfs_magic(fd) in (kernel.TMPFS_MAGIC, kernel.RAMFS_MAGIC)
    finally:
        os.close(fd)
    return 0 if volatile else os.statvfs(directory).f_fsid


def _is_out_of_sight(entry: dict[str, Any]) -> bool:
    """Is the file system that a bundle lies on not mounted now? Then it may come again."""
    parent = os.path.dirname(entry["path"])
    while not os.path.isdir(parent):
        parent = os.path.dirname(parent)
    return bool(entry["fsid"]) and _fsid(parent) != entry["fsid"]


def _read_entry(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        return documents.parse(file.read(), path)


def _unescaped(text: bytes) -> bytes:
    """Of mountinfo, which writes spaces and the like in octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda octal: bytes((int(octal[1], 8),)), text)


def _mounted_chains(snapshots_directory: str) -> set[str]:
    """ChainIDs on which overlays stand that are mounted, also where a bundle was moved."""
    path = os.path.abspath(snapshots_directory)
    mounts = kernel.read_file(MOUNTS)
    layer = re.compile(re.escape(os.fsencode(path)) + b"/[^/]+/([0-9a-f]{64})/" + os.fsencode(TREE))
    found = {name.decode() for name in layer.findall(_unescaped(mounts))}
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        if after.split(b" ")[1] != os.fsencode(fuse_overlay.PROGRAM):
            continue
        directory = os.path.dirname(os.fsdecode(_unescaped(before.split(b" ")[4])))
        try:  # its options do not name the layers, but the bundle's record does
            with _opened(directory) as fd:
                record = read_record(fd, directory)
        except (OSError, ImageError):
            continue
        if record.get("snapshots") == path:
            found.update(record["chains"])
    return found


def _remove_half_made(entry: dict[str, Any]) -> None:
    """What a maker left that died before its bundle was whole."""
    parent, name = os.path.split(entry["path"])
    if not os.path.isdir(parent):
        return
    with _opened(parent) as parent_fd:
        drivers.find(entry["driver"]).remove(parent_fd, temporary_name(name, entry["pid"]))


def _stands(entry: dict[str, Any], identity: str) -> bool:
    """Is the bundle there, or its maker still at work?"""
    try:
        fd = os.open(entry["path"], _DIRECTORY)
    except OSError:
        fd = -1
    if fd >= 0:
        try:
            if read_record(fd, entry["path"]).get("id") == identity:
                return True
        except ImageError:
            pass  # another bundle took its place
        finally:
            os.close(fd)
    return os.path.exists(f"/proc/{entry['pid']}")


def check(snapshots_directory: str) -> Iterator[tuple[str, str]]:
    """(where, what is wrong) of the unpacked layers and of the bundles that stand on them."""
    for snapshots in opened(snapshots_directory):
        for name in sorted(os.listdir(snapshots.path)):
            if name.startswith("."):
                pid = name.rpartition("-")[0].rpartition(".")[2]
                if not (pid.isdecimal() and os.path.exists(f"/proc/{pid}")):
                    yield f"{snapshots.path}/{name}", "was left by a process that died: gc removes it"
            elif not os.path.isdir(tree_of(snapshots.path, name)):
                yield f"{snapshots.path}/{name}", "holds no layer"
    register = f"{snapshots_directory}/{REGISTER}"
    for name in sorted(os.listdir(register)) if os.path.isdir(register) else ():
        if name.startswith("."):
            continue
        entry = _read_entry(f"{register}/{name}")
        identity = name.partition("-")[0]
        if _is_out_of_sight(entry):
            continue
        if not _stands(entry, identity):
            yield entry["path"], "is no bundle any more, or was left half-made: gc forgets it"
        elif os.path.exists(f"{entry['path']}/{RECORD}"):
            with _opened(entry["path"]) as fd:
                missing = [tree for tree in trees(read_record(fd, entry["path"])) if not os.path.isdir(tree)]
            yield from ((entry["path"], f"stands on a layer that is missing: {tree}") for tree in missing)

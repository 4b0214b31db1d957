"""Bundles: a directory with config.json and rootfs, as `ocirt run` takes it; made whole or not at all.

config.json      by conversion
rootfs           the image: an overlay on its snapshots, or a copy of its own
upper, work      of the overlay: what the container changes
volumes/N        the image's Volumes, with what the image has there
oci-image.json   what unbundle needs to know
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from oci_image import descriptor as documents
from oci_image import overlay
from oci_image.conversion import Overrides, checked, convert
from oci_image.copytree import copy_tree
from oci_image.errors import ImageError, NotInStore
from oci_image.extract import Policy
from oci_image.removal import remove_tree
from oci_image.snapshots import OVERLAY, TREE, Snapshots
from oci_image.transfer import read_config, read_document
from oci_image.unpack import apply_image, new_directory
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oci_image.descriptor import Descriptor
    from oci_image.transports import Source
    from oci_image.userns import Maps

RECORD = "oci-image.json"
REGISTER = "bundles"  # below the directory of the snapshots: which bundles stand on them
COPY = "copy"
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
    record: dict[str, Any] = {
        "image": name,
        "place": place,
        "manifest": documents.plain(descriptor),
        "driver": COPY,
    }
    left_out: dict[str, int] = {}
    policy = Policy(rootless and maps is None, rootless, None if rootless else maps)
    if maps and snapshots:
        raise ImageError(directory, "the ids of snapshots are not shifted: a bundle with id maps is a copy")
    mount_fd = -1
    chains: list[str] = []
    try:
        with new_directory(directory) as (path, fd):
            os.mkdir("rootfs", 0o755, dir_fd=fd)
            if maps and not rootless:
                os.fchown(fd, 0, maps.root()[1])  # the container's root has to get to its own
                os.fchmod(fd, 0o710)
            root_fd = os.open("rootfs", _DIRECTORY, dir_fd=fd)
            try:
                if snapshots is None:
                    _, left_out = apply_image(source, descriptor, root_fd, policy)
                else:
                    chains = _prepare(source, descriptor, directory, snapshots, record)
                    if snapshots.driver == OVERLAY:
                        for part in ("upper", "work"):
                            os.mkdir(part, 0o700, dir_fd=fd)
                        mount_fd = snapshots.root(chains, f"{path}/upper", f"{path}/work")
                    else:
                        snapshots.copy(chains, root_fd)
                seen_fd = root_fd if mount_fd < 0 else mount_fd
                converted = convert(image, seen_fd, overrides, rootless, maps)
                _add_volumes(converted.spec, converted.volumes, seen_fd, fd, os.path.abspath(directory))
                checked(converted.spec)
            finally:
                os.close(root_fd)
                if mount_fd >= 0:
                    os.close(mount_fd)
            _write(fd, "config.json", documents.encode(converted.spec, "\t") + b"\n")
            _write(fd, RECORD, documents.encode(record) + b"\n", 0o600)
        # Last, because what is mounted cannot be removed so easily; and anew, so that mountinfo tells the
        # directories by the names that they have now.
        if snapshots is not None and snapshots.driver == OVERLAY:
            _mount(snapshots, chains, os.path.abspath(directory))
    except BaseException:
        _unregister(record)
        raise
    return Made(converted.dropped, left_out)


def _prepare(
    source: Source, descriptor: Descriptor, directory: str, snapshots: Snapshots, record: dict[str, Any]
) -> list[str]:
    """ChainIDs of the image's layers, all unpacked; the bundle is registered as standing on them."""
    with snapshots.using():
        chains = snapshots.prepare(source, descriptor)
        record |= {"driver": snapshots.driver, "chains": chains, "id": os.urandom(8).hex()}
        record["snapshots"] = os.path.dirname(snapshots.path)
        _register(record, directory)
    return chains


def _mount(snapshots: Snapshots, chains: list[str], directory: str) -> None:
    try:
        mount_fd = snapshots.root(chains, f"{directory}/upper", f"{directory}/work")
        try:
            target = os.open(f"{directory}/rootfs", kernel.O_PATH | _DIRECTORY | os.O_NOFOLLOW)
            _closing(target, overlay.attach, mount_fd, target)
        finally:
            os.close(mount_fd)
    except BaseException:
        _remove_directory(directory)
        raise


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


def _add_volumes(spec: dict[str, Any], volumes: list[str], root_fd: int, fd: int, final: str) -> None:
    """A directory of the bundle for each volume, with what the image has there, and its mount.

    The path is resolved below the root: a symlink never leads to the host (CVE-2022-23648).
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
        finally:
            os.close(target)
        options = ["rbind", "rw", "nodev", "rprivate"]
        source = f"{final}/volumes/{i}"
        spec["mounts"].append({"destination": path, "type": "bind", "source": source, "options": options})


def remove(directory: str) -> None:
    """Unmount and remove a bundle, and what its container changed. Raises ImageError.

    The container must have been deleted before.
    """
    directory = os.path.abspath(directory)
    try:
        fd = os.open(directory, _DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise ImageError(directory, os.strerror(error.errno or 0)) from None
    try:
        record = read_record(fd, directory)
        if record["driver"] == OVERLAY:
            try:
                overlay.detach(f"/proc/self/fd/{fd}/rootfs")
            except OSError as error:
                if error.errno != kernel.EINVAL:  # nothing is mounted: the machine was restarted
                    raise ImageError(f"{directory}/rootfs", os.strerror(error.errno or 0)) from None
        _unregister(record)
    finally:
        os.close(fd)
    _remove_directory(directory)


def _remove_directory(directory: str) -> None:
    parent, name = os.path.split(directory)
    parent_fd = os.open(parent, _DIRECTORY)
    try:
        remove_tree(parent_fd, name)
    finally:
        os.close(parent_fd)


@contextmanager
def opened_upper(directory: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(fd of what the container changed, the bundle's record). Raises ImageError without an overlay."""
    try:
        fd = os.open(directory, _DIRECTORY)
    except OSError as error:
        raise ImageError(directory, os.strerror(error.errno or 0)) from None
    try:
        record = read_record(fd, directory)
        if record["driver"] != OVERLAY:
            reason = f"its driver is {record['driver']}: changes are told apart on an overlay alone"
            raise ImageError(directory, reason)
        upper_fd = os.open("upper", _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            yield upper_fd, record
        finally:
            os.close(upper_fd)
    finally:
        os.close(fd)


def is_subordinate(directory: str) -> bool:
    """Was this bundle made with subordinate ids? False for what is no bundle of ours."""
    try:
        fd = os.open(directory, _DIRECTORY)
    except OSError:
        return False
    try:
        return read_record(fd, directory).get("subordinate") is True
    except ImageError:
        return False
    finally:
        os.close(fd)


def lower_trees(record: dict[str, Any]) -> list[str]:
    """The directories of a bundle's layers, lowest first."""
    return [f"{record['snapshots']}/{OVERLAY}/{chain}/{TREE}" for chain in record["chains"]]


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
    if not isinstance(record.get("driver"), str):
        raise ImageError(f"{where}/{RECORD}", "names no driver")
    return record


# Which bundles stand on the snapshots


def _register(record: dict[str, Any], directory: str) -> None:
    register = f"{record['snapshots']}/{REGISTER}"
    os.makedirs(register, mode=0o700, exist_ok=True)
    entry = {"path": os.path.abspath(directory), "chains": record["chains"], "pid": os.getpid()}
    temporary = f"{register}/.{record['id']}"
    with open(temporary, "xb") as file:
        file.write(documents.encode(entry))
    os.rename(temporary, f"{register}/{record['id']}.json")


def _unregister(record: dict[str, Any]) -> None:
    if isinstance(record.get("snapshots"), str) and str(record.get("id", "")).isalnum():
        try:
            os.unlink(f"{record['snapshots']}/{REGISTER}/{record['id']}.json")
        except FileNotFoundError:
            pass


def used_chains(snapshots_directory: str) -> set[str]:
    """ChainIDs on which bundles stand; entries of bundles that are gone are removed."""
    register = f"{snapshots_directory}/{REGISTER}"
    found: set[str] = set()
    try:
        names = os.listdir(register)
    except FileNotFoundError:
        return found
    for name in names:
        if name.startswith("."):
            continue
        with open(f"{register}/{name}", "rb") as file:
            entry = documents.parse(file.read(), f"{register}/{name}")
        if _stands(entry, name.removesuffix(".json")):
            found.update(entry["chains"])
        else:
            os.unlink(f"{register}/{name}")
    return found


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

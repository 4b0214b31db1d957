"""How the layers of images are kept, and how the root of a bundle comes of them: a class for each way.

overlay         a directory holds one layer's changes as the kernel's overlay keeps them. They are made
                by applying the layer to an overlay of the layers below, so what a layer means (a parent
                that is a symlink further down, a hardlink to a lower file, a whiteout) is seen as in a
                container. Ids are shifted by id-mapped mounts of the layers.
fuse-overlayfs  the same, served by a program: where the kernel refuses, or to a user without root.
btrfs           a subvolume holds the whole tree up to its layer, a root is a snapshot of the last one.
vfs             a directory holds the whole tree up to its layer, a root is a copy of the last one: works
                everywhere, takes more space, which file systems with reflinks share.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from oci_image import btrfs, fuse_overlay, overlay, userns
from oci_image.copytree import copy_attributes, copy_tree
from oci_image.errors import ImageError
from oci_image.removal import remove_tree
from oci_image.shift import shift_one, shift_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from oci_image.userns import Maps

TRY = ".try-"  # begins the names of what refusal makes
TREE, WORK, UPPER, ROOTFS = "fs", "work", "upper", "rootfs"
AUTO = "auto"
NOT_BUILT = {
    "aufs": "no kernel has it any more",
    "devicemapper": "its users have left it for overlay",
    "zfs": "its module and tools are not part of Debian's main archive",
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Driver(Protocol):
    """Trees are the directories of an image's layers, lowest first. A bundle's parts lie in its directory."""

    name: str
    mounts: bool  # a root is a mount, and changes go to the bundle's directory UPPER
    shifts: bool  # with id maps, what lies in UPPER belongs to ids of the host

    def refusal(self, store: str, target: str, maps: Maps | None) -> str:
        """Why there can be no layers in store for bundles in the directory target; "" if there can."""

    def layer(self, place: str, below: Sequence[str]) -> AbstractContextManager[int]:
        """Fd of a directory that shows below and in which a layer is applied; place/TREE keeps it."""

    def fill(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        """Make what a new bundle needs of its root: ROOTFS, or what view and attach stand on."""

    def view(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> AbstractContextManager[int]:
        """Fd of a bundle's root, while nothing needs to be mounted."""

    def attach(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        """Mount a bundle's root on ROOTFS, if it is a mount. Raises ImageError."""

    def detach(self, bundle: str) -> None:
        """Undo attach; nothing if nothing is mounted (the machine was restarted). Raises ImageError."""

    def remove(self, parent_fd: int, name: str) -> None:
        """Remove a layer's place or a bundle's directory, whole or half-made."""


class _Mounted:
    """A root is a mount of the layers and a directory for what is changed."""

    name: str
    mounts = True

    @contextmanager
    def layer(self, place: str, below: Sequence[str]) -> Iterator[int]:
        tree, work = f"{place}/{TREE}", f"{place}/{WORK}"
        os.mkdir(tree, 0o755)
        if not below:
            os.chmod(tree, 0o755)
            with _opened(tree) as fd:
                yield fd
            return
        os.mkdir(work, 0o700)
        _give_attributes(below[-1], tree, None)
        with self._seen(below, tree, work, None) as fd:
            yield fd
        with _opened(place) as fd:
            remove_tree(fd, WORK)

    def fill(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        if not trees:
            raise ImageError(bundle, "an image without layers has nothing to lay an overlay on")
        for name, mode in ((ROOTFS, 0o755), (UPPER, 0o700), (WORK, 0o700)):
            os.mkdir(f"{bundle}/{name}", mode)
        # The root of an overlay has the attributes of its upper directory.
        _give_attributes(trees[-1], f"{bundle}/{UPPER}", maps if self.shifts else None)

    def view(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> AbstractContextManager[int]:
        return self._seen(trees, f"{bundle}/{UPPER}", f"{bundle}/{WORK}", maps)

    @contextmanager
    def _seen(self, trees: Sequence[str], upper: str, work: str, maps: Maps | None) -> Iterator[int]:
        mount_fd = self._mount(trees, upper, work, maps)
        try:
            fd = os.open(".", _DIRECTORY, dir_fd=mount_fd)
            try:
                yield fd
            finally:
                os.close(fd)
        finally:
            os.close(mount_fd)  # with it goes the mount

    def attach(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        mount_fd = self._mount(trees, f"{bundle}/{UPPER}", f"{bundle}/{WORK}", maps)
        try:
            with _opened(f"{bundle}/{ROOTFS}") as target:
                overlay.attach(mount_fd, target)
        finally:
            os.close(mount_fd)

    def detach(self, bundle: str) -> None:
        try:
            overlay.detach(f"{bundle}/{ROOTFS}")
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise ImageError(f"{bundle}/{ROOTFS}", os.strerror(error.errno or 0)) from None

    def remove(self, parent_fd: int, name: str) -> None:
        remove_tree(parent_fd, name)

    def refusal(self, store: str, target: str, maps: Maps | None) -> str:
        reason = self._missing()
        alike = os.stat(store).st_dev == os.stat(target).st_dev
        for directory in () if reason else (store,) if alike else (store, target):
            try:
                self._try(store, directory, maps)
            except ImageError as error:
                return error.reason
            except OSError as error:
                return f"{directory}: {os.strerror(error.errno or 0)}"
        return reason

    def _try(self, store: str, directory: str, maps: Maps | None) -> None:
        """Mount a root with its layer in store and its changes in directory, and make it hide a file."""
        name = _try_name()
        with _opened(store) as store_fd, _opened(directory) as directory_fd:
            try:
                os.makedirs(f"{store}/{name}/{TREE}/d", 0o700)
                for part in (UPPER, WORK):
                    os.makedirs(f"{directory}/{name}/{part}", 0o700, exist_ok=True)
                trees = [f"{store}/{name}/{TREE}"]
                upper, work = (f"{directory}/{name}/{part}" for part in (UPPER, WORK))
                with self._seen(trees, upper, work, maps) as fd:
                    os.rmdir("d", dir_fd=fd)
                    os.mkdir("d", dir_fd=fd)
            finally:
                for parent in dict.fromkeys((directory_fd, store_fd)):
                    remove_tree(parent, name)

    def _missing(self) -> str:
        return ""

    def _mount(self, trees: Sequence[str], upper: str, work: str, maps: Maps | None) -> int:
        """Fd of a detached mount."""
        raise NotImplementedError

    shifts: bool


class Overlay(_Mounted):
    name = "overlay"
    shifts = True

    def _mount(self, trees: Sequence[str], upper: str, work: str, maps: Maps | None) -> int:
        if not maps:
            return overlay.mount(trees, upper, work)
        userns_fd = userns.namespace(maps)
        try:
            return overlay.mount(trees, upper, work, userns_fd)
        finally:
            os.close(userns_fd)

    def _missing(self) -> str:
        return "needs root" if os.geteuid() else ""


class FuseOverlayfs(_Mounted):
    name = "fuse-overlayfs"
    shifts = False

    def _mount(self, trees: Sequence[str], upper: str, work: str, maps: Maps | None) -> int:
        return fuse_overlay.mount(trees, upper, work, maps)

    def _missing(self) -> str:
        return fuse_overlay.missing()

    @contextmanager
    def _seen(self, trees: Sequence[str], upper: str, work: str, maps: Maps | None) -> Iterator[int]:
        if os.geteuid() == 0:
            with super()._seen(trees, upper, work, maps) as fd:
                yield fd
            return
        target = f"{os.path.dirname(upper)}/{overlay.MOUNT_POINT}"
        os.mkdir(target)
        try:
            fuse_overlay.mount_on(trees, upper, work, target)
            with _opened(target) as fd:
                yield fd
        finally:
            self._unmount(target)  # also what a signal has left half mounted
        os.rmdir(target)

    def attach(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        if os.geteuid() == 0:
            super().attach(trees, bundle, maps)
        else:
            fuse_overlay.mount_on(trees, f"{bundle}/{UPPER}", f"{bundle}/{WORK}", f"{bundle}/{ROOTFS}")

    def detach(self, bundle: str) -> None:
        if os.geteuid() == 0:
            super().detach(bundle)
        else:
            self._unmount(f"{bundle}/{ROOTFS}")

    def _unmount(self, target: str) -> None:
        try:
            fuse_overlay.unmount(target)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise ImageError(target, os.strerror(error.errno or 0)) from None

    def remove(self, parent_fd: int, name: str) -> None:
        if os.geteuid():  # what was being looked at when somebody ended us
            self._unmount(f"/proc/self/fd/{parent_fd}/{name}/{overlay.MOUNT_POINT}")
        remove_tree(parent_fd, name)


class _Whole:
    """A root is a tree of its own."""

    name: str
    mounts = False
    shifts = True

    @contextmanager
    def layer(self, place: str, below: Sequence[str]) -> Iterator[int]:
        with _opened(place) as place_fd:
            self._make(below[-1] if below else "", place_fd, TREE)
        with _opened(f"{place}/{TREE}") as fd:
            yield fd

    def fill(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        with _opened(bundle) as bundle_fd:
            self._make(trees[-1] if trees else "", bundle_fd, ROOTFS)
        if maps:
            with _opened(f"{bundle}/{ROOTFS}") as fd:
                shift_tree(fd, maps)

    def view(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> AbstractContextManager[int]:
        return _opened(f"{bundle}/{ROOTFS}")

    def attach(self, trees: Sequence[str], bundle: str, maps: Maps | None) -> None:
        pass

    def detach(self, bundle: str) -> None:
        pass

    def _make(self, tree: str, parent_fd: int, name: str) -> None:
        """name in parent_fd with what the directory tree holds ("": empty)."""
        raise NotImplementedError


class Btrfs(_Whole):
    name = "btrfs"

    def refusal(self, store: str, target: str, maps: Maps | None) -> str:
        if os.geteuid():
            return "needs root"
        if not btrfs.is_btrfs(store):
            return f"{store} does not lie on btrfs"
        try:  # st_dev tells subvolumes apart, not file systems
            with _opened(store) as store_fd, _opened(target) as target_fd:
                name = _try_name()
                btrfs.create(store_fd, name)
                try:
                    with _opened(f"{store}/{name}") as fd:
                        btrfs.snapshot(fd, target_fd, f"{name}-2")
                    btrfs.remove(target_fd, f"{name}-2")
                finally:
                    btrfs.remove(store_fd, name)
        except OSError as error:
            if error.errno != errno.EXDEV and error.errno != errno.ENOTTY:
                return os.strerror(error.errno or 0)
            return f"{target} does not lie on the file system of {store}"
        return ""

    def _make(self, tree: str, parent_fd: int, name: str) -> None:
        if not tree:
            btrfs.create(parent_fd, name)
            return
        with _opened(tree) as fd:
            btrfs.snapshot(fd, parent_fd, name)

    def remove(self, parent_fd: int, name: str) -> None:
        try:
            with _opened(name, parent_fd) as fd:
                for part in (TREE, ROOTFS):
                    btrfs.remove(fd, part)
        except FileNotFoundError:
            return
        btrfs.remove(parent_fd, name)


class Vfs(_Whole):
    name = "vfs"

    def refusal(self, store: str, target: str, maps: Maps | None) -> str:
        return "needs root" if os.geteuid() else ""

    def _make(self, tree: str, parent_fd: int, name: str) -> None:
        os.mkdir(name, 0o755, dir_fd=parent_fd)
        with _opened(name, parent_fd) as target_fd:
            if not tree:
                os.fchmod(target_fd, 0o755)
                return
            with _opened(tree) as fd:
                copy_tree(fd, target_fd)

    def remove(self, parent_fd: int, name: str) -> None:
        remove_tree(parent_fd, name)


# In the order in which AUTO tries them.
DRIVERS: dict[str, Driver] = {one.name: one for one in (Overlay(), Btrfs(), FuseOverlayfs(), Vfs())}


def find(name: str) -> Driver:
    """The driver of this name. Raises ImageError saying what there is, and why others are not."""
    if name in DRIVERS:
        return DRIVERS[name]
    known = f"there is {', '.join(DRIVERS)} and {AUTO}"
    if name in NOT_BUILT:
        raise ImageError("driver", f"{name} is not built, because {NOT_BUILT[name]}; {known}")
    raise ImageError("driver", f"{name!r} is none; {known}")


def choose(name: str, store: str, target: str, maps: Maps | None = None) -> tuple[Driver, str]:
    """(driver, why it is not the first one): the named one, or for AUTO the first that works here.

    store is the directory for layers, target the one in which the bundle is to be made. Raises
    ImageError where the named one, or none, can.
    """
    if not os.access(store, os.W_OK):
        read_only = os.statvfs(store).f_flag & os.ST_RDONLY
        raise ImageError(store, os.strerror(errno.EROFS if read_only else errno.EACCES))
    for directory in dict.fromkeys((store, target)):
        _remove_left(directory)
    if name != AUTO:
        driver = find(name)
        if reason := driver.refusal(store, target, maps):
            raise ImageError(f"driver {name}", reason)
        return driver, ""
    reasons: list[str] = []
    for driver in DRIVERS.values():
        reason = driver.refusal(store, target, maps)
        if not reason:
            return driver, "; ".join(reasons)
        reasons.append(f"{driver.name}: {reason}")
    raise ImageError("driver", "; ".join(reasons))


def _try_name() -> str:
    return f"{TRY}{os.getpid()}-{os.urandom(4).hex()}"


def _remove_left(directory: str) -> None:
    """Remove what processes left that died while they tried a driver."""
    for name in os.listdir(directory):
        pid = name.removeprefix(TRY).partition("-")[0]
        if name.startswith(TRY) and not os.path.exists(f"/proc/{pid}"):
            with _opened(directory) as fd:
                if os.geteuid():
                    DRIVERS["fuse-overlayfs"].remove(fd, name)
                else:
                    btrfs.remove(fd, name)


@contextmanager
def _opened(path: str, parent_fd: int | None = None) -> Iterator[int]:
    fd = os.open(path, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def _give_attributes(source: str, target: str, maps: Maps | None) -> None:
    with _opened(source) as source_fd, _opened(target) as target_fd:
        copy_attributes(source_fd, target_fd)
        if maps:
            shift_one(target_fd, maps)

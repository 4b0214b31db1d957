"""Overlay mounts as detached mount fds: they are gone with the process, whatever ends it."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

from oci_image.errors import ImageError
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_STRING = 255  # bytes that fsconfig(2) takes
MAX_PAGE = 4095  # bytes that mount(2) takes
MAX_LAYERS = 500  # OVL_MAX_STACK of the kernel
# Layers must mean the same to every kernel and every other program that mounts them.
_PLAIN = (("redirect_dir", "off"), ("index", "off"), ("metacopy", "off"))
_SPECIAL = set("\\,:")  # in overlay's options
MOUNT_POINT = "merged"


def mount(lower: Sequence[str], upper: str, work: str, userns_fd: int = -1) -> int:
    """O_PATH fd of a detached overlay; the caller closes it, or moves it into place (attach).

    lower are directories, lowest first; upper and work lie in one file system. userns_fd: files of
    lower belong to the ids of the host that its maps name (id-mapped mounts, Linux 5.19 for
    overlay). Raises ImageError.
    """
    if len(lower) > MAX_LAYERS:
        reason = f"{len(lower)} layers are more than the {MAX_LAYERS} of which Linux makes one"
        raise ImageError(f"overlay on {upper}", reason)
    if userns_fd < 0:
        return _mount(lower, upper, work)

    def mapped() -> int:
        for path in dict.fromkeys(lower):
            _map_ids(path, userns_fd)
        return _mount(lower, upper, work)

    try:
        return _in_own_namespace(mapped)
    except OSError as error:
        raise ImageError("mount namespace", os.strerror(error.errno or 0)) from None


def _map_ids(path: str, userns_fd: int) -> None:
    """Lay an id-mapped mount of a directory over it."""
    try:
        tree = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE)
        try:
            kernel.mount_setattr(
                tree, b"", kernel.AT_EMPTY_PATH, kernel.MOUNT_ATTR_IDMAP, userns_fd=userns_fd
            )
            kernel.move_mount(tree, b"", kernel.AT_FDCWD, path, kernel.MOVE_MOUNT_F_EMPTY_PATH)
        finally:
            os.close(tree)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ImageError(path, f"its file system or kernel cannot map ids: {reason}") from None


def _in_own_namespace(call: Callable[[], int]) -> int:
    """The call's result, from a mount namespace that is gone afterwards with all mounts in it."""

    def run() -> int:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        return call()

    return _in_own_thread(run)


def _in_own_thread(call: Callable[[], int]) -> int:
    """The call's result. It may change its working directory and its namespaces: no other thread's change."""
    results: list[int] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            kernel.unshare(kernel.CLONE_FS)
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _mount(lower: Sequence[str], upper: str, work: str) -> int:
    try:
        return _by_fsopen(lower, upper, work)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise ImageError(f"overlay on {upper}", os.strerror(error.errno or 0)) from None
    try:
        return _by_mount(lower, upper, work)
    except OSError as error:
        raise ImageError(f"overlay on {upper}", os.strerror(error.errno or 0)) from None


def _by_fsopen(lower: Sequence[str], upper: str, work: str) -> int:
    """One layer at a time, without a limit of their number: Linux 6.5, EINVAL before."""
    fds: list[int] = []
    context = kernel.fsopen("overlay")
    try:
        kernel.fsconfig(context, kernel.FSCONFIG_SET_STRING, "source", "overlay")
        for path in reversed(lower):
            kernel.fsconfig(context, kernel.FSCONFIG_SET_STRING, "lowerdir+", _short(path, fds))
        for key, value in (("upperdir", _short(upper, fds)), ("workdir", _short(work, fds)), *_PLAIN):
            kernel.fsconfig(context, kernel.FSCONFIG_SET_STRING, key, value)
        kernel.fsconfig(context, kernel.FSCONFIG_CMD_CREATE)
        return kernel.fsmount(context, 0, kernel.MOUNT_ATTR_NODEV)
    finally:
        os.close(context)
        _close(fds)


def _short(path: str, fds: list[int]) -> str:
    """path, or a short and plain name of it that holds as long as fds are open."""
    if len(os.fsencode(path)) <= MAX_STRING and not set(path) & _SPECIAL:
        return path
    fds.append(os.open(path, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return f"/proc/self/fd/{fds[-1]}"


def _by_mount(lower: Sequence[str], upper: str, work: str) -> int:
    """mount(2), and then detached; nobody sees it meanwhile, and nothing is left of it if we are killed.

    Options have one page: where names are too long for it, directories are named by their fds.
    """
    target = f"{os.path.dirname(upper)}/{MOUNT_POINT}"

    def mount() -> int:
        fds = [os.open(one, kernel.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for one in (*lower, upper, work)]
        try:
            os.chdir("/proc/self/fd")  # so that a layer takes four or five bytes of the page
            options = _options(lower, upper, work)
            if len(os.fsencode(options)) > MAX_PAGE or any(set(one) & _SPECIAL for one in (*lower, upper)):
                *names, upper_name, work_name = map(str, fds)
                options = _options(names, upper_name, work_name)
            kernel.mount("overlay", target, "overlay", kernel.MS_NODEV, options)
        finally:
            _close(fds)
        return kernel.open_tree(kernel.AT_FDCWD, target, kernel.OPEN_TREE_CLONE)

    os.makedirs(target, exist_ok=True)
    try:
        return _in_own_namespace(mount)
    finally:
        os.rmdir(target)


def _options(lower: Sequence[str], upper: str, work: str) -> str:
    words = "".join(f",{key}={value}" for key, value in _PLAIN)
    return f"lowerdir={':'.join(reversed(lower))},upperdir={upper},workdir={work}{words}"


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def attach(mount_fd: int, directory_fd: int) -> None:
    """Put a detached mount onto a directory."""
    flags = kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH
    kernel.move_mount(mount_fd, b"", directory_fd, b"", flags)


def detach(path: str) -> None:
    """Unmount what is mounted on path. Raises OSError: EBUSY while it is used, EINVAL if nothing is."""
    kernel.umount2(path, kernel.UMOUNT_NOFOLLOW)

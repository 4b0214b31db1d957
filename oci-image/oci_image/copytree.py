"""A directory tree copied with all its attributes, through fds; extents are shared where they can be."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from ocirt import kernel

FICLONE = 0x40049409  # _IOW(0x94, 9, int): linux/fs.h; the same on x86_64 and aarch64
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE = 1 << 30


def copy_tree(source_fd: int, target_fd: int) -> None:
    """Copy what the directory source_fd holds, and its own attributes, into the empty one target_fd.

    Owners, modes, times, xattrs (so ACLs and capabilities too), hardlinks, holes, devices. Mounts
    below the source are copied as the directories that they are.
    """
    links: dict[tuple[int, int], tuple[bytes, str]] = {}
    # (source, target, path, names left): directories being copied, a stack because trees may be deep.
    stack = [(os.dup(source_fd), os.dup(target_fd), b".", os.listdir(source_fd))]
    try:
        while stack:
            source, target, path, names = stack[-1]
            if not names:
                copy_attributes(source, target)
                stack.pop()
                os.close(source)
                os.close(target)
                continue
            name = names.pop()
            status = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                os.mkdir(name, 0o700, dir_fd=target)
                below = os.open(name, _DIRECTORY, dir_fd=source)
                into = os.open(name, _DIRECTORY, dir_fd=target)
                stack.append((below, into, path + b"/" + os.fsencode(name), os.listdir(below)))
                continue
            key = status.st_dev, status.st_ino
            if status.st_nlink > 1 and key in links:
                _link(target_fd, links[key], target, name)
                continue
            if status.st_nlink > 1:
                links[key] = path, name
            _copy_one(source, target, name, status)
    finally:
        for source, target, _, _ in stack:
            os.close(source)
            os.close(target)


def _link(root: int, first: tuple[bytes, str], target: int, name: str) -> None:
    """Another name of a file that was copied already."""
    resolve = kernel.RESOLVE_BENEATH | kernel.RESOLVE_NO_SYMLINKS
    fd = kernel.openat2(root, first[0], kernel.O_PATH | os.O_DIRECTORY, 0, resolve)
    try:
        os.link(first[1], name, src_dir_fd=fd, dst_dir_fd=target, follow_symlinks=False)
    finally:
        os.close(fd)


def _copy_one(source: int, target: int, name: str, status: os.stat_result) -> None:
    mode = status.st_mode
    if stat.S_ISREG(mode):
        from_fd = os.open(name, _READ, dir_fd=source)
        try:
            to_fd = os.open(name, _CREATE, 0o600, dir_fd=target)
            try:
                _copy_content(from_fd, to_fd, status.st_size)
                copy_attributes(from_fd, to_fd)
            finally:
                os.close(to_fd)
        finally:
            os.close(from_fd)
        return
    if stat.S_ISLNK(mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, stat.S_IFMT(mode) | 0o600, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(mode):
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        os.chmod(f"/proc/self/fd/{fd}", stat.S_IMODE(mode))
        os.close(fd)
    there, here = f"/proc/self/fd/{source}/{name}", f"/proc/self/fd/{target}/{name}"
    for key in os.listxattr(there, follow_symlinks=False):
        os.setxattr(here, key, os.getxattr(there, key, follow_symlinks=False), follow_symlinks=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _copy_content(from_fd: int, to_fd: int, size: int) -> None:
    try:
        fcntl.ioctl(to_fd, FICLONE, from_fd)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
    at = 0
    while at < size:
        try:
            at = os.lseek(from_fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # a hole up to the end
        end = os.lseek(from_fd, at, os.SEEK_HOLE)
        os.lseek(to_fd, at, os.SEEK_SET)
        while at < end and (copied := _copy_range(from_fd, to_fd, at, min(_PIECE, end - at))):
            at += copied
    os.ftruncate(to_fd, size)


def _copy_range(from_fd: int, to_fd: int, at: int, size: int) -> int:
    try:
        return os.copy_file_range(from_fd, to_fd, size, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
    return os.sendfile(to_fd, from_fd, at, size)  # between file systems


def copy_attributes(source: int, target: int) -> None:
    """Owner, mode, xattrs and times of a file or directory."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        if not name.startswith("trusted.overlay.") and name != "security.selinux":
            os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

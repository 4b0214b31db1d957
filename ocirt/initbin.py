"""An fd of ocirt-init that nobody can write to, whatever the container does with /proc/self/exe."""

from __future__ import annotations

import posix
import sys
from errno import EACCES

from ocirt import kernel
from ocirt.errors import OcirtError

NAME = "ocirt-init"


def package_directory() -> str:
    """Where the package's files are installed."""
    return str(sys.modules["ocirt"].__path__[0])


def open_init() -> int:
    """Executable fd of ocirt-init: a sealed memfd, so that the file on the host is never mapped
    into a container and cannot be overwritten from one (CVE-2019-5736).

    Where vm.memfd_noexec=2 forbids executable memfds, a copy on a read-only tmpfs.
    """
    path = f"{package_directory()}/{NAME}"
    try:
        data = kernel.read_file(path)
    except OSError as error:
        raise OcirtError(f"the installation is not complete: {path}: {error.strerror}") from None
    try:
        fd = kernel.memfd_create(NAME)
    except OSError as error:
        if error.errno != EACCES:
            raise
        return _on_tmpfs(data)
    kernel.write_all(fd, data)
    kernel.seal(fd)
    return fd


def _on_tmpfs(data: bytes) -> int:
    """Open a copy on a file system that has no name and that nobody can write to any more."""
    try:
        fs = kernel.fsopen("tmpfs", kernel.FSOPEN_CLOEXEC)
        try:
            kernel.fsconfig(fs, kernel.FSCONFIG_CMD_CREATE)
            mount = kernel.fsmount(fs, kernel.FSMOUNT_CLOEXEC, 0)
        finally:
            posix.close(fs)
        try:
            flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_CLOEXEC
            fd = posix.open(NAME, flags, 0o555, dir_fd=mount)
            kernel.write_all(fd, data)
            posix.close(fd)
            kernel.mount_setattr(mount, "", kernel.AT_EMPTY_PATH, kernel.MOUNT_ATTR_RDONLY)
            return posix.open(NAME, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=mount)
        finally:
            posix.close(mount)
    except OSError as error:
        raise OcirtError(f"vm.memfd_noexec is 2, and instead: {NAME} on a tmpfs: {error.strerror}") from None


def plan_memfd(data: bytes) -> int:
    """An fd with the encoded plan, for the init to map."""
    fd = kernel.memfd_create("ocirt-plan", kernel.MFD_NOEXEC_SEAL)
    kernel.write_all(fd, data)
    return fd

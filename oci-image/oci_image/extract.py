"""Layers applied to a directory, as hostile as they may be (layer.md, Applying Changesets).

Every parent is an fd that openat2(2) resolved below the root (RESOLVE_IN_ROOT), every last
component is made, replaced or removed by a call that follows no symlink. So neither a name, nor a
link that an earlier entry made, nor somebody who changes the tree meanwhile leads out of the root.

Order per file: data, owner, mode, xattrs, times. A write or chown after the xattrs would strip
security.capability, a chown after the mode setuid. Times and default ACLs of directories come last
of all: what is made in a directory changes the one and inherits the other.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from oci_image.acl import from_names
from oci_image.errors import ImageError
from oci_image.layer import ADD, CLEAR, show
from oci_image.removal import remove_tree
from oci_image.shift import shifted
from oci_image.tarstream import ACLS, BLOCK_DEVICE, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK
from oci_image.users import number_of
from ocirt import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from oci_image.layer import Change
    from oci_image.tarstream import Entry
    from oci_image.userns import Maps

MOST_FDS = 96  # directories kept open
NO_ID = 0xFFFFFFFF  # to chown(2) it means: leave it
MAX_TIME = (1 << 62) * 1_000_000_000
MAX_MAJOR, MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1  # MKDEV of the kernel
OWNER_XATTR = "user.rootlesscontainers"  # rootlesscontaine.rs: protobuf of uid and gid; umoci reads it
DEFAULT_ACL = "system.posix_acl_default"

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TYPES = {CHAR: stat.S_IFCHR, BLOCK_DEVICE: stat.S_IFBLK, FIFO: stat.S_IFIFO}
# Attributes that mean something on the machine where the layer was made, or to the overlay driver.
_LEFT_OUT = ("security.selinux", "security.ima", "security.evm", "system.nfs4_acl")
_LEFT_OUT_BELOW = ("trusted.overlay.", "user.overlay.")


class Changes(Protocol):
    """What a layer.Layer offers."""

    def changes(self) -> Iterator[Change]: ...
    def data(self) -> Iterator[memoryview]: ...


class Policy(NamedTuple):
    """single: one user owns everything, and whose it should be is recorded in OWNER_XATTR.

    unprivileged (single implies it): devices become empty files, attributes that need privilege are
    left out; owners are set, as root of a user namespace may. maps: owners are shifted to those of a
    user namespace.
    """

    single: bool = False
    unprivileged: bool = False
    maps: Maps | None = None


class _Directory(NamedTuple):
    """What a directory gets at the end."""

    mtime: int
    mode: int
    default_acl: bytes | None


class Extractor:
    """Applies layers to the directory root_fd, lowest first; finish() completes it. close() it.

    into: the directory is no new one; it keeps its own attributes, and those that have no entry get no
    time. left_out counts what the file system or the user's rights did not allow, by what it was.
    """

    def __init__(self, root_fd: int, policy: Policy = Policy(), into: bool = False) -> None:  # noqa: B008
        self._root = root_fd
        self._into = into
        self._single = policy.single
        self._unprivileged = policy.single or policy.unprivileged
        self._maps = policy.maps
        self._fds: dict[bytes, int] = {}
        self._directories: dict[bytes, _Directory] = {}
        self._touched: dict[bytes, int] = {}  # mtimes of directories that have no entry, but new content
        self._known: set[tuple[int, int]] = set()  # directories of both, whatever their path
        self._upper: set[bytes] = set()  # what the current layer made, with all parents
        self._acls: dict[bytes, dict[str, bytes]] = {}  # those that name users, by path
        self._where = ""
        self.left_out: dict[str, int] = {}
        self._touch(root_fd, b"")
        self._root_ids = self._maps.root() if self._maps else (0, 0)
        if into:
            return
        if self._maps:
            os.fchown(root_fd, *self._root_ids)
        for name in (DEFAULT_ACL, "system.posix_acl_access"):  # of the directory that the root lies in
            try:
                os.removexattr(root_fd, name)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.ENOTSUP):
                    raise

    def apply(self, layer: Changes, where: str) -> None:
        """Apply one layer; where names it in errors. Raises ImageError."""
        self._upper = {b""}
        self._where = where
        for change in layer.changes():
            if len(self._fds) > MOST_FDS:  # not in the middle of an entry, which may use two of them
                self._forget()
            try:
                if change.what == ADD:
                    self._add(change, layer)
                else:
                    self._hide(change)
            except OSError as error:
                reason = os.strerror(error.errno or 0)
                raise ImageError(f"{where}: {show(change.path) or '/'}", reason) from error

    def finish(self) -> None:
        """What directories get last. Call it once, after the last layer."""
        self._resolve_acls()
        for path in sorted(self._touched | self._directories, reverse=True):  # what lies in one before it
            try:
                if path in self._directories:
                    self._finish_directory(path, self._directories[path])
                else:
                    self._set_time(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed by a layer above
            except OSError as error:
                raise ImageError(show(path) or "/", os.strerror(error.errno or 0)) from error

    def _resolve_acls(self) -> None:
        """Set the ACLs that name users, whom the image's passwd and group know now that all is there."""
        flags = kernel.O_PATH | os.O_NOFOLLOW
        for path, acls in self._acls.items():
            where = f"{show(path)}: ACL"
            try:
                fd = self._open(path, flags)
            except (FileNotFoundError, NotADirectoryError):
                continue  # removed by a layer above
            try:
                numbers = partial(number_of, root_fd=self._root, where=where)
                found = {ACLS[key]: from_names(text, where, numbers) for key, text in acls.items()}
                if self._maps:
                    found = shifted(found, self._maps, where)
                for name, value in found.items():
                    self._set_xattr(b"/proc/self/fd/%d" % fd, name, value, follow=True)
            finally:
                os.close(fd)

    def _finish_directory(self, path: bytes, last: _Directory) -> None:
        fd = self._open(path or b".", _DIRECTORY)
        try:
            if last.default_acl is not None:
                self._set_xattr(fd, DEFAULT_ACL, last.default_acl)
            if self._single:
                os.fchmod(fd, last.mode)
            os.utime(fd, ns=(last.mtime, last.mtime))
        finally:
            os.close(fd)

    def _set_time(self, path: bytes) -> None:
        fd = self._open(path or b".", os.O_RDONLY | os.O_DIRECTORY)  # the path may be a symlink's
        try:
            os.utime(fd, ns=(self._touched[path], self._touched[path]))
        finally:
            os.close(fd)

    def close(self) -> None:
        self._forget()

    # Directories

    def _open(self, path: bytes, flags: int) -> int:
        resolve = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
        return kernel.openat2(self._root, path, flags, 0, resolve)

    def _forget(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

    def _directory(self, path: bytes) -> int:
        """Fd of the directory path, which is made where it is missing; it stays ours."""
        if not path:
            return self._root
        fd = self._fds.get(path)
        if fd is not None:
            return fd
        try:
            fd = self._open(path, kernel.O_PATH | os.O_DIRECTORY)
            self._touch(fd, path)
        except FileNotFoundError:
            parent_path, _, name = path.rpartition(b"/")
            parent = self._directory(parent_path)
            try:
                os.mkdir(name, 0o755, dir_fd=parent)
            except FileExistsError:
                raise self._refused(path, "is a symlink that leads nowhere") from None
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            os.fchmod(fd, 0o755)
            if not self._single:
                os.fchown(fd, *self._root_ids)
        except NotADirectoryError:
            raise self._refused(path, "is not a directory") from None
        self._fds[path] = fd
        return fd

    def _touch(self, fd: int, path: bytes) -> None:
        """Something in this directory is going to change: unless it gets a time of its own, it keeps its."""
        status = os.fstat(fd)
        if not self._into and (status.st_dev, status.st_ino) not in self._known:
            self._known.add((status.st_dev, status.st_ino))
            self._touched[path] = status.st_mtime_ns

    def _refused(self, path: bytes, reason: str) -> ImageError:
        return ImageError(f"{self._where}: {show(path)}", reason)

    # Additions

    def _add(self, change: Change, layer: Changes) -> None:
        path, entry = change.path, change.entry
        parent_path, _, name = path.rpartition(b"/")
        if not 0 <= entry.uid < NO_ID or not 0 <= entry.gid < NO_ID:
            raise self._refused(path, f"its owner {entry.uid}:{entry.gid} is no user and group")
        if self._maps:
            ids = self._maps.host_ids(entry.uid, entry.gid)
            if ids is None:
                raise self._refused(path, f"its owner {entry.uid}:{entry.gid} is not mapped")
            entry.uid, entry.gid = ids
            if entry.xattrs:
                entry.xattrs = shifted(entry.xattrs, self._maps, f"{self._where}: {show(path)}")
        entry.mtime = max(-MAX_TIME, min(entry.mtime, MAX_TIME))
        kind = entry.kind
        if not path:
            self._set_directory(os.dup(self._root), path, entry)
            return
        upper = self._upper
        upper.add(path)
        self._acls.pop(path, None)
        if entry.acls:
            texts = {key: text for key, text in entry.acls.items() if ACLS[key] not in entry.xattrs}
            self._acls[path] = texts
        if parent_path not in upper:
            self._note_parents(parent_path)
        parent = self._directory(parent_path)
        if kind == FILE:
            self._make_file(parent, name, change, layer)
        elif kind == DIRECTORY:
            self._make_directory(parent, name, path, entry)
        elif kind == SYMLINK:
            self._make_symlink(parent, name, path, entry)
        elif kind == HARDLINK:
            self._make_hardlink(parent, name, change)
        else:
            self._make_node(parent, name, path, entry)

    def _note_parents(self, path: bytes) -> None:
        while path not in self._upper:
            self._upper.add(path)
            path = path.rpartition(b"/")[0]

    def _make_file(self, parent: int, name: bytes, change: Change, layer: Changes) -> None:
        entry = change.entry
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear_the_way(parent, name, change.path)
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.sparse is not None:
                self._write_sparse(fd, entry, layer)
            elif entry.size:
                for piece in layer.data():
                    while piece:
                        piece = piece[os.write(fd, piece) :]
            if self._single:
                self._record_owner(fd, entry)
            else:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _write_sparse(self, fd: int, entry: Entry, layer: Changes) -> None:
        pieces = layer.data()
        rest = memoryview(b"")
        for offset, length in entry.sparse or ():
            end = offset + length
            while offset < end:
                rest = rest or next(pieces)
                written = os.pwrite(fd, rest[: end - offset], offset)
                rest = rest[written:]
                offset += written
        os.ftruncate(fd, entry.size)

    def _make_directory(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        fresh = True
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            fresh = not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
            if fresh:
                self._clear_the_way(parent, name, path)
                os.mkdir(name, 0o700, dir_fd=parent)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
        if not fresh:
            self._clear_xattrs(fd)
        self._set_directory(fd, path, entry)

    def _set_directory(self, fd: int, path: bytes, entry: Entry) -> None:
        """Owner, mode and attributes; the fd is kept for what comes into the directory."""
        try:
            if self._single:
                self._record_owner(fd, entry)
                os.fchmod(fd, entry.mode | 0o700)
            else:
                os.fchown(fd, entry.uid, entry.gid)
                os.fchmod(fd, entry.mode)
            default_acl = entry.xattrs.pop(DEFAULT_ACL, None)
            if entry.xattrs:
                self._set_xattrs(fd, entry)
            status = os.fstat(fd)
            self._known.add((status.st_dev, status.st_ino))
            self._directories[path] = _Directory(entry.mtime, entry.mode, default_acl)
        except BaseException:
            os.close(fd)
            raise
        if path and path not in self._fds:
            self._fds[path] = fd
        else:
            os.close(fd)

    def _make_symlink(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        try:
            os.symlink(entry.linkname, name, dir_fd=parent)
        except FileExistsError:
            self._clear_the_way(parent, name, path)
            os.symlink(entry.linkname, name, dir_fd=parent)
        if not self._single:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        elif entry.uid or entry.gid:
            self._leave_out("owners of symlinks")
        if entry.xattrs:
            self._set_xattrs(b"/proc/self/fd/%d/%s" % (parent, name), entry)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _make_hardlink(self, parent: int, name: bytes, change: Change) -> None:
        """Another name; the file keeps its attributes, which came with its first one (CVE-2021-32760)."""
        path, target = change.path, change.target
        target_parent_path, _, target_name = target.rpartition(b"/")
        if not target or target == path:
            raise self._refused(path, "is a hardlink to itself" if target else "is a hardlink to the root")
        try:
            target_parent = self._open(target_parent_path or b".", kernel.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            raise self._refused(path, f"is a hardlink to {show(target)}, which does not exist") from None
        try:
            status = os.stat(target_name, dir_fd=target_parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                raise self._refused(path, f"is a hardlink to the directory {show(target)}")
            fds = {"src_dir_fd": target_parent, "dst_dir_fd": parent, "follow_symlinks": False}
            try:
                os.link(target_name, name, **fds)  # type: ignore[arg-type]
            except FileExistsError:
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                    return
                self._clear_the_way(parent, name, path)
                os.link(target_name, name, **fds)  # type: ignore[arg-type]
        except FileNotFoundError:
            raise self._refused(path, f"is a hardlink to {show(target)}, which does not exist") from None
        finally:
            os.close(target_parent)

    def _make_node(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        """A device or FIFO."""
        if self._unprivileged and entry.kind != FIFO:
            self._leave_out("devices, made as empty files")
            self._make_placeholder(parent, name, path, entry)
            return
        kind = _TYPES[entry.kind]
        if not 0 <= entry.major <= MAX_MAJOR or not 0 <= entry.minor <= MAX_MINOR:
            raise self._refused(path, f"{entry.major}:{entry.minor} is no device")
        device = os.makedev(entry.major, entry.minor)
        try:
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        except FileExistsError:
            self._clear_the_way(parent, name, path)
            os.mknod(name, kind | 0o600, device, dir_fd=parent)
        # fchmodat(2) cannot leave symlinks alone before Linux 6.6: by an fd that is no symlink.
        fd = os.open(name, kernel.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if stat.S_IFMT(os.fstat(fd).st_mode) != kind:
                raise self._refused(path, "was exchanged while it was made")
            link = f"/proc/self/fd/{fd}"
            if not self._single:
                os.chown(link, entry.uid, entry.gid)
            os.chmod(link, entry.mode)
            if entry.xattrs:
                self._set_xattrs(os.fsencode(link), entry, follow=True)
            os.utime(link, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    def _make_placeholder(self, parent: int, name: bytes, path: bytes, entry: Entry) -> None:
        try:
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear_the_way(parent, name, path)
            fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if self._single:
                self._record_owner(fd, entry)
            else:
                os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(fd)

    # Attributes

    def _set_xattrs(self, target: int | bytes, entry: Entry, follow: bool = False) -> None:
        for name, value in entry.xattrs.items():
            if name in _LEFT_OUT or name.startswith(_LEFT_OUT_BELOW):
                self._leave_out(f"xattr {name}")
            else:
                self._set_xattr(target, name, value, follow)

    def _set_xattr(self, target: int | bytes, name: str, value: bytes, follow: bool = False) -> None:
        try:
            if isinstance(target, int):
                os.setxattr(target, name, value)
            else:
                os.setxattr(target, name, value, follow_symlinks=follow)
        except OSError as error:
            # EPERM: user.* on what is no file or directory, or no privilege. Anything else is our error.
            allowed = error.errno == errno.EPERM and (self._unprivileged or name.startswith("user."))
            if error.errno != errno.ENOTSUP and not allowed:
                raise
            self._leave_out(f"xattr {name}")

    def _clear_xattrs(self, fd: int) -> None:
        """A directory of a lower layer gets the attributes of the upper one, not both."""
        try:
            names = os.listxattr(fd)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            return
        for name in names:
            if name not in _LEFT_OUT:
                os.removexattr(fd, name)

    def _record_owner(self, fd: int, entry: Entry) -> None:
        if not entry.uid and not entry.gid:
            return
        value = b"".join(
            bytes((tag,)) + _varint(number)
            for tag, number in ((0x08, entry.uid), (0x10, entry.gid))
            if number
        )
        try:
            os.setxattr(fd, OWNER_XATTR, value)
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
            self._leave_out("owners: the file system has no user xattrs")

    def _leave_out(self, what: str) -> None:
        self.left_out[what] = self.left_out.get(what, 0) + 1

    # Removals

    def _clear_the_way(self, parent: int, name: bytes, path: bytes) -> None:
        """Remove what stands where something else is to be made."""
        mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            remove_tree(parent, name)
        else:
            os.unlink(name, dir_fd=parent)
        if stat.S_ISDIR(mode) or stat.S_ISLNK(mode):
            self._path_changed(path)

    def _path_changed(self, path: bytes) -> None:
        """What was remembered of directories may be wrong now: path led to some of them."""
        self._forget_all_but(path.rpartition(b"/")[0])
        below = path + b"/"
        for last in (self._directories, self._touched):
            for known in [one for one in last if one == path or one.startswith(below)]:
                del last[known]

    def _forget_all_but(self, path: bytes) -> None:
        """The directory in which an entry is being made stays open."""
        kept = self._fds.pop(path, None)
        self._forget()
        if kept is not None:
            self._fds[path] = kept

    def _hide(self, change: Change) -> None:
        """A whiteout: takes away what lower layers have, nothing of this one."""
        directory = change.path if change.what == CLEAR else change.path.rpartition(b"/")[0]
        flags = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_SYMLINKS
        try:
            fd = kernel.openat2(self._root, directory or b".", os.O_RDONLY | os.O_DIRECTORY, 0, flags)
        except (FileNotFoundError, NotADirectoryError):
            return  # umoci also hides what lay in a directory that became a file
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._refused(change.path, "is hidden through a symlink") from None
            raise
        try:
            self._touch(fd, directory)
            if change.what == CLEAR:
                self._remove_lower(fd, directory)
            else:
                self._remove_one(fd, change.path.rpartition(b"/")[2], change.path)
        finally:
            os.close(fd)

    def _remove_one(self, parent: int, name: bytes, path: bytes) -> None:
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if path not in self._upper:
            self._clear_the_way(parent, name, path)
        elif stat.S_ISDIR(mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                self._remove_lower(fd, path)
            finally:
                os.close(fd)

    def _remove_lower(self, fd: int, path: bytes) -> None:
        for name in os.listdir(fd):
            raw = os.fsencode(name)
            self._remove_one(fd, raw, path + b"/" + raw if path else raw)


def _varint(number: int) -> bytes:
    """As protobuf writes numbers."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))

"""The state directory: one directory per container, 0700, locked while a command changes it.

ROOT/ID/state.json   what later commands need to know; replaced atomically
ROOT/ID/config.json  config.json as it was at create
ROOT/ID/start        listening socket of a created container; gone once it was started
ROOT/ID/claimed      the cgroups were found empty or made: all processes in them are this container's
"""

from __future__ import annotations

import fcntl
import posix
import time
from errno import ENOENT

from ocirt.errors import AlreadyExists, NotFound, OcirtError, SpecError, StepError
from ocirt.spec.jsontext import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1
# What a state directory holds; each file has the name .NAME.new while it is written.
NAMES = ("state.json", "config.json", "start", "claimed", "notify")
MAX_FILE = 128 << 20  # bytes; config.json may have 64 MiB, and its annotations are in state.json
MAX_ID = 255  # bytes of a file name; an id is ASCII
_ALLOWED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")


# Members of state.json and what they are; more may be there.
_MEMBERS = (
    ("ociVersion", str),
    ("id", str),
    ("pid", int),
    ("startTime", int),
    ("bundle", str),
    ("rootfs", str),
    ("created", str),
    ("annotations", dict),
    ("owner", str),
    ("pidNamespace", bool),
    ("noNewKeyring", bool),
    ("hooks", dict),
)


class Busy(OcirtError):
    """Another command holds the lock of the container for too long."""

    def __str__(self) -> str:
        return f"container {self.args[0]} is being changed by another command that does not end"


def check_id(container_id: str) -> None:
    """Raise SpecError unless the id is one that runc takes: letters, digits, _ + - ."""
    good = container_id and container_id not in (".", "..") and len(container_id) <= MAX_ID
    if not good or not _ALLOWED.issuperset(container_id):
        raise SpecError("", f"invalid container ID format: {container_id!r}")


class StateDir:
    """An open, locked state directory. Close it, or use it in a with statement."""

    __slots__ = ("container_id", "fd", "root")

    def __init__(self, root: str, container_id: str, fd: int) -> None:
        self.root = root
        self.container_id = container_id
        self.fd = fd

    def __enter__(self) -> StateDir:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    @property
    def path(self) -> str:
        return f"{self.root}/{self.container_id}"

    def save(self, state: dict[str, Any]) -> None:
        """Replace state.json: a runtime that is killed leaves the old one or the new one.

        Not fsynced (0.5 ms each on a disk): a machine that goes down takes the container along,
        and delete --force removes what it finds.
        """
        self.write("state.json", dumps({"format": FORMAT, **state}).encode("utf-8", "surrogateescape"))

    def write(self, name: str, data: bytes) -> None:
        partial = f".{name}.new"
        flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC | posix.O_NOFOLLOW
        fd = posix.open(partial, flags, 0o600, dir_fd=self.fd)
        try:
            view = memoryview(data)
            while view:
                view = view[posix.write(fd, view) :]
        except OSError as error:
            raise StepError(error.errno or 0, "write", detail=f"{self.path}/{name}") from None
        finally:
            posix.close(fd)
        posix.rename(partial, name, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def claim(self) -> None:
        """From here on whoever is in the container's cgroups belongs to it."""
        self.write("claimed", b"")

    def claimed(self) -> bool:
        return self.exists("claimed")

    def load(self) -> dict[str, Any]:
        """state.json. Raises SpecError when it is not one of ours.

        FileNotFoundError also when it is empty: so it can be after the machine went down.
        """
        data = self.read("state.json")
        if not data:
            raise FileNotFoundError(ENOENT, "empty", f"{self.path}/state.json")
        state: dict[str, Any] = loads(data, f"{self.path}/state.json")
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise SpecError(f"{self.path}/state.json", "was written by another version of ocirt")
        if not _is_whole(state):
            raise SpecError(f"{self.path}/state.json", "is damaged")
        return state

    def read(self, name: str) -> bytes:
        # Of a root that others may write to: a FIFO must not hang, nor a file without end fill us.
        flags = posix.O_RDONLY | posix.O_CLOEXEC | posix.O_NOFOLLOW | posix.O_NONBLOCK
        fd = posix.open(name, flags, dir_fd=self.fd)
        size = 0
        try:
            parts = []
            while part := posix.read(fd, 1 << 18):
                parts.append(part)
                size += len(part)
                if size > MAX_FILE:
                    raise SpecError(f"{self.path}/{name}", f"is larger than {MAX_FILE >> 20} MiB")
            return b"".join(parts)
        except OSError as error:
            raise StepError(error.errno or 0, "read", detail=f"{self.path}/{name}") from None
        finally:
            posix.close(fd)

    def exists(self, name: str) -> bool:
        try:
            posix.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def unlink(self, name: str) -> None:
        try:
            posix.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def is_ours(self) -> bool:
        """Does it hold nothing but what a create leaves? A wrong --root may name any directory."""
        known = {*NAMES, *(f".{name}.new" for name in NAMES)}
        return known.issuperset(posix.listdir(self.fd))

    def remove(self) -> None:
        """Remove the directory with all that is in it; the id is free again."""
        for name in posix.listdir(self.fd):
            try:
                posix.unlink(name, dir_fd=self.fd)
            except FileNotFoundError:
                pass
            except IsADirectoryError:
                _remove_tree(self.fd, name)
        if _still_there(self.path, self.fd):  # and not removed and made anew by others
            try:
                posix.rmdir(self.path)
            except FileNotFoundError:
                pass


def _is_whole(state: dict[str, Any]) -> bool:
    """Nobody but us writes state.json: only a fault of the disk or a hand that slipped."""
    for name, kind in _MEMBERS:
        if type(state.get(name)) is not kind:
            return False
    if not (0 <= state["pid"] < 1 << 31 and state["startTime"] >= 0):
        return False
    creator = state.get("creator")
    if creator is not None and (type(creator) is not list or [type(one) for one in creator] != [int, int]):
        return False
    for entries in state["hooks"].values():
        if type(entries) is not list or not all(_is_hook(entry) for entry in entries):
            return False
    steps = state.get("steps")
    if steps is not None and not (
        type(steps) is dict
        and type(steps.get("base")) is int
        and 0 <= steps["base"] < 1 << 20
        and type(steps.get("ops")) is list
        and all(type(op) is list and [type(word) for word in op] == [str] * 3 for op in steps["ops"])
    ):
        return False
    return _is_cgroup(state.get("cgroup"))


def _is_hook(hook: Any) -> bool:
    return type(hook) is dict and type(hook.get("path")) is str


def _is_cgroup(saved: Any) -> bool:
    if saved is None:
        return True
    if type(saved) is not dict or type(saved.get("paths")) is not dict:
        return False
    words = [saved.get("driver"), saved.get("mount", ""), saved.get("unit", ""), saved.get("reason", "")]
    if not all(type(word) is str and "\0" not in word for word in words):
        return False
    if saved["driver"] == "systemd" and not ("unit" in saved and type(saved.get("user")) is bool):
        return False
    for path in saved["paths"].values():
        if type(path) is not str or path[:1] != "/" or path == "/" or "\0" in path:
            return False
    return (
        saved["driver"] == "none"
        or saved.get("version") == 1
        or (saved.get("version") == 2 and "" in saved["paths"])
    )


def _remove_tree(parent: int, name: str) -> None:
    fd = posix.open(name, _DIRECTORY, dir_fd=parent)
    try:
        for entry in posix.listdir(fd):
            try:
                posix.unlink(entry, dir_fd=fd)
            except IsADirectoryError:
                _remove_tree(fd, entry)
    finally:
        posix.close(fd)
    posix.rmdir(name, dir_fd=parent)


def reserve(root: str, container_id: str) -> StateDir:
    """Make the container's state directory, locked. Raises AlreadyExists."""
    check_id(container_id)
    path = f"{root}/{container_id}"
    try:
        posix.mkdir(path, 0o700)
    except FileNotFoundError:
        make_root(root)
        return reserve(root, container_id)
    except FileExistsError:
        raise AlreadyExists(container_id) from None
    try:
        fd = _open_locked(path)
    except FileNotFoundError:  # a delete saw the empty directory before we had the lock
        return reserve(root, container_id)
    if not _still_there(path, fd):
        posix.close(fd)
        return reserve(root, container_id)
    return StateDir(root, container_id, fd)


def make_root(root: str) -> None:
    """The directory of all containers: 0700, and its parents as needed."""
    parent = root.rstrip("/").rpartition("/")[0]
    try:
        posix.mkdir(root, 0o700)
    except FileNotFoundError:
        if not parent:
            raise
        make_root(parent)
        posix.mkdir(root, 0o700)
    except FileExistsError:
        pass


def open_state(root: str, container_id: str, *, lock: bool = True, patience: float | None = None) -> StateDir:
    """The state directory of an existing container. Raises NotFound.

    patience: seconds to wait for the lock before Busy is raised; None waits for ever.

    Commands that only look do not lock: a hook may ask for the state of the container that is
    being created for it, and state.json is always whole.
    """
    check_id(container_id)
    path = f"{root}/{container_id}"
    try:
        fd = _open_locked(path, patience) if lock else posix.open(path, _DIRECTORY)
    except BlockingIOError:
        raise Busy(container_id) from None
    except OSError as error:
        if error.errno == ENOENT:
            raise NotFound(container_id) from None
        raise
    directory = StateDir(root, container_id, fd)
    if lock and not _still_there(path, fd):
        # deleted, perhaps made anew, while we waited for the lock
        directory.close()
        return open_state(root, container_id, patience=patience)
    return directory


_DIRECTORY = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC


def _open_locked(path: str, patience: float | None = None) -> int:
    """Raises BlockingIOError when others hold the lock for longer than patience, in seconds."""
    fd = posix.open(path, _DIRECTORY)
    try:
        if patience is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
        else:
            _lock_within(fd, patience)
    except OSError:
        posix.close(fd)
        raise
    return fd


def _lock_within(fd: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    pause = 0.001
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _still_there(path: str, fd: int) -> bool:
    try:
        return posix.stat(path).st_ino == posix.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def ids(root: str) -> list[str]:
    """The ids of all containers below root; none when root is missing, which is not made."""
    try:
        names = posix.listdir(root)
    except FileNotFoundError:
        return []
    return sorted(name for name in names if _ALLOWED.issuperset(name) and name not in (".", ".."))

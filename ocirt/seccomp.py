"""linux.seccomp as the last op before execve: the filter comes from the cache or is compiled.

The cache spares docker's profile the 20 ms that libseccomp takes for it. A file of the cache is
named for what decides its content: the profile, the machine, the kernel's release (it decides
libseccomp's API level) and the version of our compiler; in it stands which file of libseccomp
made it. The directory belongs to the user that runs ocirt, and to nobody else.
"""

from __future__ import annotations

import posix
from _struct import Struct

from ocirt import kernel
from ocirt.errors import Unsupported
from ocirt.spec.jsontext import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

FIELD = "linux.seccomp"
COMPILER = b"1"  # changes when the same profile would be compiled to something else
SYSTEM_CACHE = "/run/ocirt-cache"
MAX_FILE = 1 << 20

# magic; inode, size and mtime (ns) of libseccomp; lengths of its path and of the filter
HEADER = Struct("<8s3QII")
MAGIC = b"ocirtbpf"


def apply(ctx: Context, profile: dict[str, Any]) -> None:
    """The last op but execve; the filter itself is compiled in OPEN."""
    check(profile)
    flags = filter_flags(profile)
    ctx.plan.add("seccomp", FIELD, b"", flags, detail=profile["defaultAction"])
    op = ctx.plan.ops[-1]

    def compile_it(_launch: Any) -> None:
        op.args = (get(profile), flags)

    ctx.plan.at("OPEN", FIELD, "compile the filter", compile_it)


def check(profile: dict[str, Any]) -> None:
    """Refuse what is not built; needs no libseccomp."""
    notifies = profile["defaultAction"] == "SCMP_ACT_NOTIFY"
    for rule in profile.get("syscalls") or ():
        notifies = notifies or rule["action"] == "SCMP_ACT_NOTIFY"
    if notifies or profile.get("listenerPath"):
        raise Unsupported(f"{FIELD}.listenerPath", "seccomp notifications are not built")


def filter_flags(profile: dict[str, Any]) -> int:
    """Flags of seccomp(2). A profile without the key gets SPEC_ALLOW, as with runc: what a filter
    costs in speculation would fall on every program of the container.
    """
    names = profile.get("flags")
    if names is None:
        return int(kernel.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
    flags = 0
    for name in names:
        # TSYNC: the init has one thread. WAIT_KILLABLE_RECV: only notifications wait.
        if name not in ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"):
            flags |= getattr(kernel, name)
    return flags


def compile_profile(profile: dict[str, Any]) -> tuple[bytes, int]:
    """(struct sock_filter[], flags of seccomp(2)), without the cache. Raises SpecError."""
    from ocirt.seccomp_compile import compile_filter

    check(profile)
    return compile_filter(profile), filter_flags(profile)


def get(profile: dict[str, Any]) -> bytes:
    """struct sock_filter[] of a profile. The cache may fail in any way but by a wrong answer."""
    directory = open_cache()
    if directory < 0:
        return compile_profile(profile)[0]
    try:
        name = key(profile)
        program = _look_up(directory, name)
        if program is None:
            from ocirt.seccomp_compile import store

            program = compile_profile(profile)[0]
            store(directory, name, program)
        return program
    finally:
        posix.close(directory)


def key(profile: dict[str, Any]) -> str:
    """Name of the profile's file in the cache."""
    host = posix.uname()
    facts = b"\0".join((COMPILER, host.machine.encode(), host.release.encode()))
    return _sha256(facts + b"\0" + dumps(profile).encode())


def _sha256(data: bytes) -> str:
    try:
        from _sha256 import sha256  # type: ignore[import-not-found]  # CPython 3.11
    except ImportError:
        try:
            from _sha2 import sha256  # type: ignore[import-not-found]  # 3.12
        except ImportError:
            from hashlib import sha256
    return str(sha256(data).hexdigest())


def open_cache() -> int:
    """Fd of the cache directory, -1 where there is none that only this user can write."""
    places = []
    if posix.geteuid() == 0:
        places.append(SYSTEM_CACHE)
    runtime_dir = kernel.getenv("XDG_RUNTIME_DIR")
    if runtime_dir and runtime_dir.startswith("/"):
        places.append(f"{runtime_dir}/ocirt-cache")
    for place in places:
        fd = _open_own(place)
        if fd >= 0:
            return fd
    return -1


def _open_own(place: str) -> int:
    flags = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        fd = posix.open(place, flags)
    except FileNotFoundError:
        try:
            posix.mkdir(place, 0o700)
            fd = posix.open(place, flags)
        except OSError:
            return -1
    except OSError:
        return -1
    status = posix.fstat(fd)
    if status.st_uid == posix.geteuid() and not status.st_mode & 0o077:
        return fd
    posix.close(fd)
    return -1


def _look_up(directory: int, name: str) -> bytes | None:
    """The stored program, if it is whole and made by the libseccomp that is there now."""
    flags = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC
    try:
        fd = posix.open(name, flags, dir_fd=directory)
    except OSError:
        return None
    try:
        data = posix.read(fd, MAX_FILE)
    except OSError:
        return None
    finally:
        posix.close(fd)
    if len(data) < HEADER.size:
        return None
    magic, inode, size, mtime, path_length, length = HEADER.unpack_from(data)
    try:
        library = posix.stat(data[HEADER.size : HEADER.size + path_length])
    except (OSError, ValueError):
        return None
    program = data[HEADER.size + path_length :]
    if magic != MAGIC or len(program) != length or not length or length % 8:
        return None
    same = (library.st_ino, library.st_size, library.st_mtime_ns) == (inode, size, mtime)
    return program if same else None

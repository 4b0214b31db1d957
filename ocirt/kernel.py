"""Kernel calls: one function each, fds and paths in, OSError out.

Paths are bytes or str; fds that are returned are close-on-exec and belong to the caller. Every
constant of csrc/shim/constants.txt is an attribute of this module (kernel.CLONE_NEWNS); the
values were compiled from the kernel's headers. Also here: the few functions of `os` that the
hot path needs, so that it need not import `os`.
"""

from __future__ import annotations

import fcntl
import posix
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    Path = str | bytes

INFINITY = (1 << 64) - 1

_MOUNT_ATTR = Struct("<4Q")


class _Later:
    """Stands for ffi or lib of the shim until its first use: state and list save 0.6 ms."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        from ocirt import _shim

        globals().update(ffi=_shim.ffi, lib=_shim.lib)
        return getattr(getattr(_shim, self._name), attribute)


ffi: Any = _Later("ffi")
lib: Any = _Later("lib")


def __getattr__(name: str) -> int:
    value = getattr(lib, name)
    globals()[name] = value  # the next access does not come here
    return value  # type: ignore[no-any-return]


def _check(result: int, path: Path | None = None) -> int:
    if result < 0:
        raise OSError(-result, posix.strerror(-result), path)
    return result


# What `os` would offer


def fsencode(text: str | bytes) -> bytes:
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text


def fsdecode(data: str | bytes) -> str:
    return data.decode("utf-8", "surrogateescape") if isinstance(data, bytes) else data


def environ() -> dict[bytes, bytes]:
    """The environment that this process was started with."""
    return posix.environ


def getenv(name: str) -> str | None:
    value = posix.environ.get(fsencode(name))
    return None if value is None else fsdecode(value)


def makedev(major: int, minor: int) -> int:
    return posix.makedev(major, minor)


def write_all(fd: int, data: bytes) -> None:
    """Write everything, however the kernel splits it."""
    view = memoryview(data)
    while view:
        view = view[posix.write(fd, view) :]


def read_file(path: Path, limit: int = 64 << 20, dir_fd: int | None = None) -> bytes:
    """Content of a file; at most limit bytes of it."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return read_all(fd, limit)
    finally:
        posix.close(fd)


def read_all(fd: int, limit: int = 64 << 20) -> bytes:
    """What fd still holds, at most limit bytes of it."""
    parts = []
    size = 65536
    while limit > 0:
        part = posix.read(fd, min(size, limit))
        if not part:
            break
        parts.append(part)
        limit -= len(part)
        if len(parts) > 1:  # most files end here: the second read needs no large buffer
            size = 1 << 20
    return b"".join(parts)


# Processes


def spawn(
    exe_fd: int,
    argv: Sequence[bytes],
    env: Sequence[bytes],
    keep_fds: Iterable[int],
    flags: int = 0,
    cgroup_fd: int = -1,
    exit_signal: int | None = None,
    stdio: tuple[int, int, int] = (-1, -1, -1),
    path: bytes | None = None,
    cwd_fd: int = -1,
) -> tuple[int, int]:
    """Start the program exe_fd, or path: (pid, pidfd). clone3(2) with CLONE_VM and CLONE_VFORK.

    env holds KEY=value. The child keeps 0, 1, 2 (or what stdio puts there) and keep_fds; signals
    are unblocked and at their defaults. flags are more CLONE_ bits; cgroup_fd is a directory of
    cgroup v2, cwd_fd the working directory. exit_signal holds until the program is executed; default SIGCHLD.
    A failure to execute is raised here.
    """
    argv_words = [ffi.new("char[]", word) for word in argv]
    env_words = [ffi.new("char[]", word) for word in env]
    argv_table = ffi.new("char *[]", [*argv_words, ffi.NULL])
    env_table = ffi.new("char *[]", [*env_words, ffi.NULL])
    keep = list(keep_fds)
    keep_table = ffi.new("int[]", keep)
    path_word = ffi.NULL if path is None else ffi.new("char[]", path)
    request = ffi.new(
        "struct oc_spawn *",
        {
            "exe_fd": exe_fd,
            "path": path_word,
            "cwd_fd": cwd_fd,
            "argv": argv_table,
            "env": env_table,
            "keep_fds": keep_table,
            "keep_count": len(keep),
            "stdio": stdio,
            "flags": flags,
            "cgroup_fd": cgroup_fd,
            "exit_signal": lib.SIGCHLD if exit_signal is None else exit_signal,
            "pidfd": -1,
        },
    )
    pid = _check(lib.oc_spawn(request))
    return pid, request.pidfd


def pidfd_open(pid: int, flags: int = 0) -> int:
    return _check(lib.oc_pidfd_open(pid, flags))


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    _check(lib.oc_pidfd_send_signal(pidfd, signal))


def waitid_pidfd(pidfd: int, nohang: bool = False, keep: bool = False) -> tuple[int, int, int] | None:
    """(pid, CLD_ code, status) of a child that ended, whatever its exit signal.

    None: it still runs (nohang). keep leaves it to be waited for again. When a wait() of the host
    program was faster, the kernel is asked (Linux 6.15; pid is 0 then) before ECHILD is raised:
    no exit signal hides a child from wait(), an exec sets it to SIGCHLD.
    """
    options = lib.WEXITED | lib.__WALL | (lib.WNOHANG if nohang else 0) | (lib.WNOWAIT if keep else 0)
    result = ffi.new("int[3]")
    while True:
        error = lib.oc_waitid(lib.P_PIDFD, pidfd, options, result)
        if error != -lib.EINTR:
            break
    if error == -lib.ECHILD and lib.oc_pidfd_exit(pidfd, result) == 0:
        status = result[0]
        if status & 0x7F:
            return 0, lib.CLD_DUMPED if status & 0x80 else lib.CLD_KILLED, status & 0x7F
        return 0, lib.CLD_EXITED, status >> 8
    _check(error)
    return (result[0], result[1], result[2]) if result[0] else None


def exit_status(code: int, status: int) -> int:
    """Exit status as a shell tells it: 128 + n after signal n."""
    return status if code == lib.CLD_EXITED else 128 + status


def setns(fd: int, types: int) -> None:
    _check(lib.oc_setns(fd, types))


def unshare(flags: int) -> None:
    _check(lib.oc_unshare(flags))


def namespace_type(fd: int) -> int:
    """CLONE_NEW… of a namespace fd; OSError ENOTTY when it is something else."""
    return fcntl.ioctl(fd, lib.NS_GET_NSTYPE)


def prlimit(pid: int, resource: int, soft: int, hard: int) -> tuple[int, int]:
    """Set a limit (pid 0: own) and get the old one. -1 and INFINITY are no limit."""
    old = ffi.new("uint64_t[2]")
    _check(lib.oc_prlimit(pid, resource, ffi.new("uint64_t[2]", [soft & INFINITY, hard & INFINITY]), old))
    return old[0], old[1]


def prlimit_get(pid: int, resource: int) -> tuple[int, int]:
    old = ffi.new("uint64_t[2]")
    _check(lib.oc_prlimit(pid, resource, ffi.NULL, old))
    return old[0], old[1]


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return _check(lib.oc_prctl(option, a, b, c, d))


def capget(pid: int = 0) -> tuple[int, int, int]:
    """(effective, permitted, inheritable) as bit masks; pid 0 is the calling thread."""
    sets = ffi.new("uint64_t[3]")
    _check(lib.oc_capget(pid, sets))
    return sets[0], sets[1], sets[2]


def capset(effective: int, permitted: int, inheritable: int) -> None:
    _check(lib.oc_capset(effective, permitted, inheritable))


def keyctl(operation: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    return _check(lib.oc_keyctl(operation, a, b, c, d))


def signal_mask(signals: Iterable[int]) -> int:
    """Bit n - 1 stands for signal n."""
    mask = 0
    for signal in signals:
        mask |= 1 << (signal - 1)
    return mask


def sigprocmask(how: int, mask: int) -> int:
    """Change which signals are blocked in this thread: the mask that was. SIG_BLOCK, SIG_SETMASK."""
    old = ffi.new("uint64_t *")
    _check(lib.oc_sigprocmask(how, mask, old))
    return int(old[0])


def ignored_signals() -> int:
    """Mask of the signals whose action is SIG_IGN."""
    mask = ffi.new("uint64_t *")
    _check(lib.oc_ignored_signals(mask))
    return int(mask[0])


def signalfd(mask: int, nonblock: bool = True) -> int:
    """Fd that becomes readable when one of the (blocked) signals is pending."""
    return _check(lib.oc_signalfd(mask, posix.O_CLOEXEC | (posix.O_NONBLOCK if nonblock else 0)))


# Files


def memfd_create(name: Path, flags: int = 0) -> int:
    """Anonymous file that may be sealed; executable unless flags has MFD_NOEXEC_SEAL.

    MFD_EXEC and MFD_NOEXEC_SEAL are Linux 6.3; an older kernel gets neither.
    """
    flags |= lib.MFD_CLOEXEC | lib.MFD_ALLOW_SEALING
    newer = flags if flags & lib.MFD_NOEXEC_SEAL else flags | lib.MFD_EXEC
    word = fsencode(name)
    fd = lib.oc_memfd_create(word, newer)
    if fd == -lib.EINVAL:
        fd = lib.oc_memfd_create(word, flags & ~(lib.MFD_EXEC | lib.MFD_NOEXEC_SEAL))
    return _check(fd, name)


def seal(fd: int) -> None:
    """Make the content of a memfd final."""
    seals = lib.F_SEAL_SEAL | lib.F_SEAL_SHRINK | lib.F_SEAL_GROW | lib.F_SEAL_WRITE
    fcntl.fcntl(fd, lib.F_ADD_SEALS, seals)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    _check(lib.oc_close_range(first, last, flags))


def openat2(dirfd: int, path: Path, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); EAGAIN (a rename raced with RESOLVE_IN_ROOT) is tried again."""
    word = fsencode(path)
    for _ in range(100):
        fd = lib.oc_openat2(dirfd, word, flags | posix.O_CLOEXEC, mode, resolve)
        if fd != -lib.EAGAIN:
            break
    return _check(fd, path)


def fstatfs_magic(fd: int) -> int:
    """f_type of the file system that fd is on."""
    return _check(lib.oc_fstatfs_magic(fd))


def mount_id(dirfd: int, path: Path = b"") -> int:
    """Id, as in mountinfo, of the mount that path is on; an empty path is dirfd itself."""
    result = ffi.new("uint64_t *")
    flags = lib.AT_EMPTY_PATH | lib.AT_SYMLINK_NOFOLLOW
    _check(lib.oc_mount_id(dirfd, fsencode(path), flags, result), path)
    return result[0]  # type: ignore[no-any-return]


# Sockets


def socketpair(kind: int | None = None) -> tuple[int, int]:
    """Two connected unix sockets; SOCK_SEQPACKET unless told."""
    pair = ffi.new("int[2]")
    _check(lib.oc_socketpair(lib.SOCK_SEQPACKET if kind is None else kind, pair))
    return pair[0], pair[1]


def unix_listen(path: Path, kind: int | None = None, backlog: int = 8) -> int:
    """Listening unix socket bound to path (at most 107 bytes: go through /proc/self/fd/N/…)."""
    return _check(
        lib.oc_unix_listen(fsencode(path), lib.SOCK_STREAM if kind is None else kind, backlog), path
    )


def unix_connect(path: Path, kind: int | None = None) -> int:
    """Unix socket connected to path (at most 107 bytes)."""
    return _check(lib.oc_unix_connect(fsencode(path), lib.SOCK_STREAM if kind is None else kind), path)


def accept(fd: int) -> int:
    return _check(lib.oc_accept(fd))


def peer_credentials(sock: int) -> tuple[int, int, int]:
    """(pid, uid, gid) of whoever connected."""
    result = ffi.new("int[3]")
    _check(lib.oc_peer_cred(sock, result))
    return result[0], result[1] & 0xFFFFFFFF, result[2] & 0xFFFFFFFF


def send_fd(sock: int, fd: int, payload: bytes = b"\0") -> None:
    """Pass fd on together with payload, which must not be empty."""
    _check(lib.oc_send_fd(sock, fd, payload, len(payload)))


def recv_fd(sock: int, size: int = 4096) -> tuple[int, bytes]:
    """(fd or -1, payload); an empty payload is the end of the connection."""
    buffer = ffi.new("char[]", size)
    fd = ffi.new("int *")
    length = _check(lib.oc_recv_fd(sock, buffer, size, fd))
    return fd[0], ffi.unpack(buffer, length)


# Mounts


def open_tree(dirfd: int, path: Path, flags: int) -> int:
    """Fd of the mount tree at path, a detached copy with OPEN_TREE_CLONE. Linux 5.2."""
    return _check(lib.oc_open_tree(dirfd, fsencode(path), flags | lib.OPEN_TREE_CLOEXEC), path)


def move_mount(from_fd: int, from_path: Path, to_fd: int, to_path: Path, flags: int) -> None:
    _check(lib.oc_move_mount(from_fd, fsencode(from_path), to_fd, fsencode(to_path), flags), to_path)


def mount_setattr(
    fd: int,
    path: Path,
    flags: int,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = -1,
) -> None:
    """Change attributes of a mount, of the whole tree with AT_RECURSIVE. Linux 5.12."""
    _check(lib.oc_mount_setattr(fd, fsencode(path), flags, attr_set, attr_clr, propagation, userns_fd), path)


def mount_attr(attr_set: int, attr_clr: int, propagation: int, userns_fd: int = 0) -> bytes:
    """struct mount_attr, for ops of the init."""
    return _MOUNT_ATTR.pack(attr_set, attr_clr, propagation, userns_fd)


def mount_flags(attributes: int) -> int:
    """MS_ flags of mount(2) that mean the same as MOUNT_ATTR_ attributes."""
    flags = 0
    for attribute, flag in (
        ("MOUNT_ATTR_RDONLY", "MS_RDONLY"),
        ("MOUNT_ATTR_NOSUID", "MS_NOSUID"),
        ("MOUNT_ATTR_NODEV", "MS_NODEV"),
        ("MOUNT_ATTR_NOEXEC", "MS_NOEXEC"),
        ("MOUNT_ATTR_NODIRATIME", "MS_NODIRATIME"),
        ("MOUNT_ATTR_NOSYMFOLLOW", "MS_NOSYMFOLLOW"),
    ):
        if attributes & getattr(lib, attribute):
            flags |= getattr(lib, flag)
    atime = attributes & lib.MOUNT_ATTR__ATIME  # a number, not bits; 0 is relatime, mount(2)'s default
    if atime == lib.MOUNT_ATTR_NOATIME:
        flags |= lib.MS_NOATIME
    elif atime == lib.MOUNT_ATTR_STRICTATIME:
        flags |= lib.MS_STRICTATIME
    return flags


def fsopen(fstype: Path, flags: int = 0) -> int:
    return _check(lib.oc_fsopen(fsencode(fstype), flags | lib.FSOPEN_CLOEXEC), fstype)


def fsconfig(fd: int, command: int, key: Path | None = None, value: Path | None = None, aux: int = 0) -> None:
    key_word = ffi.NULL if key is None else fsencode(key)
    value_word = ffi.NULL if value is None else fsencode(value)
    _check(lib.oc_fsconfig(fd, command, key_word, value_word, aux), key)


def fsmount(fd: int, flags: int = 0, attributes: int = 0) -> int:
    return _check(lib.oc_fsmount(fd, flags | lib.FSMOUNT_CLOEXEC, attributes))


def mount(
    source: Path | None, target: Path, fstype: Path | None, flags: int, data: Path | None = None
) -> None:
    words = [ffi.NULL if word is None else fsencode(word) for word in (source, target, fstype, data)]
    _check(lib.oc_mount(words[0], words[1], words[2], flags, words[3]), target)


def umount2(target: Path, flags: int = 0) -> None:
    _check(lib.oc_umount2(fsencode(target), flags), target)


# Terminals


def tcgetattr(fd: int) -> bytes:
    """struct termios, as bytes."""
    buffer = ffi.new("char[]", lib.oc_termios_size())
    _check(lib.oc_tcgetattr(fd, buffer))
    return bytes(ffi.buffer(buffer))


def tcsetattr(fd: int, when: int, termios: bytes) -> None:
    """Set what tcgetattr gave. when: TCSANOW, TCSADRAIN, TCSAFLUSH."""
    _check(lib.oc_tcsetattr(fd, when, termios))


def cfmakeraw(termios: bytes) -> bytes:
    """The same terminal settings, but raw."""
    buffer = ffi.new("char[]", termios)
    lib.oc_cfmakeraw(buffer)
    return bytes(ffi.buffer(buffer))[: len(termios)]


def winsize(fd: int) -> tuple[int, int]:
    """(rows, columns)."""
    size = ffi.new("unsigned short[2]")
    _check(lib.oc_winsize_get(fd, size))
    return size[0], size[1]


def set_winsize(fd: int, rows: int, cols: int) -> None:
    _check(lib.oc_winsize_set(fd, rows, cols))


def pty_peer(fd: int, flags: int) -> int:
    """The terminal of a pty master, without going through a path that may lie. TIOCGPTPEER."""
    return _check(lib.oc_pty_peer(fd, flags | posix.O_CLOEXEC))


# bpf(2) for the device programs of cgroup v2


class VerifierError(OSError):
    """The kernel refused a program; log is what its verifier said."""

    log = ""


def bpf_prog_load(
    prog_type: int, insns: bytes, license: str = "GPL", name: str = "", attach_type: int = 0
) -> int:
    """Load a program of 8-byte instructions. Raises VerifierError."""
    words = (fsencode(license), fsencode(name))
    count = len(insns) // 8
    fd = lib.oc_bpf_prog_load(prog_type, attach_type, insns, count, *words, ffi.NULL, 0)
    if fd >= 0 or fd == -lib.EPERM:
        return _check(fd)
    log = ffi.new("char[]", 65536)
    again = lib.oc_bpf_prog_load(prog_type, attach_type, insns, count, *words, log, 65536)
    if again >= 0:
        return again  # type: ignore[no-any-return]
    error = VerifierError(-fd, posix.strerror(-fd))
    error.log = fsdecode(ffi.string(log))
    raise error


def bpf_prog_attach(
    target_fd: int, prog_fd: int, attach_type: int, flags: int = 0, replace_fd: int = -1
) -> None:
    _check(lib.oc_bpf_prog_attach(target_fd, prog_fd, attach_type, flags, replace_fd))


def bpf_prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    _check(lib.oc_bpf_prog_detach(target_fd, prog_fd, attach_type))


def bpf_prog_query(target_fd: int, attach_type: int, query_flags: int = 0) -> list[int]:
    """Ids of the programs that are attached to a cgroup."""
    room = 64
    while True:
        ids: Any = ffi.new("uint32_t[]", room)
        count = ffi.new("unsigned *", room)
        flags = ffi.new("unsigned *")
        result = lib.oc_bpf_prog_query(target_fd, attach_type, query_flags, ids, count, flags)
        if result == -lib.ENOSPC and count[0] > room:
            room = count[0]
            continue
        _check(result)
        return list(ids[0 : count[0]])


def bpf_prog_get_fd_by_id(prog_id: int) -> int:
    return _check(lib.oc_bpf_prog_get_fd_by_id(prog_id))

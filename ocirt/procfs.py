"""What /proc says about processes, mounts and cgroups, as plain values."""

from __future__ import annotations

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def read(path: str | bytes, limit: int = 64 << 20) -> bytes:
    """Content of a kernel file; at most limit bytes of it."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    try:
        parts = []
        while limit > 0 and (data := posix.read(fd, min(limit, 32768))):
            parts.append(data)
            limit -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        posix.close(fd)


# One process


def stat_fields(pid: int | str) -> list[bytes]:
    """/proc/PID/stat from the third field (state) on: the command before it may hold anything.

    Raises FileNotFoundError or ProcessLookupError when there is no such process.
    """
    return read(f"/proc/{pid}/stat").rpartition(b") ")[2].split()


def start_time(pid: int | str) -> int:
    """When the process started, in clock ticks since boot: tells it from a later one of this pid."""
    return int(stat_fields(pid)[19])


def process_state(pid: int | str) -> str:
    """R, S, D, Z, T, ... as in ps(1); "" when there is no such process."""
    try:
        return stat_fields(pid)[0].decode("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def process_is(pid: int, started: int) -> bool:
    """Does the process with this pid and start time still run? A zombie does not."""
    try:
        fields = stat_fields(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in (b"Z", b"X") and int(fields[19]) == started


def status(pid: int | str) -> dict[str, str]:
    """/proc/PID/status: name to text."""
    result = {}
    for line in read(f"/proc/{pid}/status").decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        result[name] = value.strip()
    return result


def id_map(pid: int | str, kind: str = "uid") -> list[tuple[int, int, int]]:
    """uid_map or gid_map: (first inside, first outside, how many)."""
    rows = []
    for line in read(f"/proc/{pid}/{kind}_map").splitlines():
        inside, outside, size = line.split()
        rows.append((int(inside), int(outside), int(size)))
    return rows


def wchan(pid: int | str) -> str:
    """The kernel function that the process sleeps in; "" when it does not, or that is secret."""
    try:
        name = read(f"/proc/{pid}/wchan").decode("ascii", "replace")
    except OSError:
        return ""
    return "" if name == "0" else name


def command(pid: int | str) -> str:
    """Name of the program, 15 letters of it; "" when there is no such process."""
    try:
        line = read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    name = line[line.index(b"(") + 1 : line.rindex(b")")].decode("utf-8", "replace")
    return name if name.isprintable() else ascii(name)[1:-1]


def working_directory(pid: int | str) -> str:
    """As the process sees it; "" when we may not know it, or it has ended."""
    try:
        path = posix.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return ""
    return _shown(path)


def open_files(pid: int | str, limit: int) -> list[str]:
    """Paths of the first files that the process has open, beside its standard ones and devices."""
    found: list[str] = []
    try:
        numbers = sorted(map(int, posix.listdir(f"/proc/{pid}/fd")))
    except OSError:
        return found
    for number in numbers:
        try:
            path = posix.readlink(f"/proc/{pid}/fd/{number}")
        except OSError:
            continue
        shown = _shown(path)
        if number > 2 and path.startswith("/") and not path.startswith("/dev/") and shown not in found:
            found.append(shown)
        if len(found) == limit:
            break
    return found


def _shown(path: str) -> str:
    return path if path.isprintable() else ascii(path)[1:-1]


def pids_of_namespace(pid: int) -> list[int]:
    """The processes that are in the same pid namespace as this one, as we see them."""
    namespace = posix.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for name in posix.listdir("/proc"):
        if name.isdigit():
            try:
                if posix.readlink(f"/proc/{name}/ns/pid") == namespace:
                    found.append(int(name))
            except (FileNotFoundError, PermissionError, ProcessLookupError):
                continue  # it has ended; another user's cannot be ours
    return sorted(found)


def threads(pid: int) -> list[int]:
    """The thread ids of a process; none once it has ended."""
    try:
        return [int(name) for name in posix.listdir(f"/proc/{pid}/task")]
    except (FileNotFoundError, ProcessLookupError):
        return []


# cgroups


def cgroup_paths(pid: int | str = "self") -> dict[str, str]:
    """Hierarchy to path: "cpu,cpuacct", "name=systemd" on v1, "" for cgroup v2."""
    result = {}
    for line in read(f"/proc/{pid}/cgroup").decode("utf-8", "surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        result[controllers] = path
    return result


# Mounts


class Mount:
    """One line of mountinfo, see proc(5). Paths are unescaped."""

    __slots__ = (
        "device",
        "fstype",
        "id",
        "mount_point",
        "optional",
        "options",
        "parent",
        "root",
        "source",
        "super",
    )

    def __init__(self, line: bytes) -> None:
        before, _, after = line.partition(b" - ")
        fields = before.split(b" ")
        self.id = int(fields[0])
        self.parent = int(fields[1])
        self.device = fields[2].decode("utf-8", "surrogateescape")
        self.root = _unescape(fields[3])
        self.mount_point = _unescape(fields[4])
        self.options = fields[5].decode("utf-8", "surrogateescape").split(",")
        self.optional = [field.decode("utf-8", "surrogateescape") for field in fields[6:]]
        kind, source, options = [*after.split(b" ", 2), b"", b""][:3]
        self.fstype = kind.decode("utf-8", "surrogateescape")
        self.source = _unescape(source)
        self.super = _unescape(options).split(",")


def _unescape(field: bytes) -> str:
    if b"\\" in field:
        for code, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
            field = field.replace(code, plain)
    return field.decode("utf-8", "surrogateescape")


def mountinfo(pid: int | str = "self") -> Iterator[Mount]:
    """The mounts that a process sees, in the order of mounting."""
    for line in read(f"/proc/{pid}/mountinfo").split(b"\n"):
        if line:
            yield Mount(line)


def mount_points(pid: int | str = "self") -> list[str]:
    """Only the mount points: hosts may have thousands of mounts."""
    lines = read(f"/proc/{pid}/mountinfo").split(b"\n")
    return [_unescape(line.split(b" ", 5)[4]) for line in lines if line]

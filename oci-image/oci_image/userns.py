"""Id maps, and a user without root who has subordinate ids (subuid(5)): root of a namespace that maps them.

newuidmap and newgidmap of the shadow suite, which may write such maps, are executed from fixed places.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from typing import NamedTuple

from oci_image.errors import ImageError
from ocirt import kernel

SUBUID, SUBGID = "/etc/subuid", "/etc/subgid"
PLACES = ("/usr/bin", "/bin")
WAITER = b"/bin/cat"
MAX_FILE = 1 << 20
NO_ID = 0xFFFFFFFF


class Map(NamedTuple):
    """size ids of the host from host on are those from container on in the namespace."""

    container: int
    host: int
    size: int

    def as_spec(self) -> dict[str, int]:
        """As linux.uidMappings of config.json has it."""
        return {"containerID": self.container, "hostID": self.host, "size": self.size}


class Maps(NamedTuple):
    uids: list[Map]
    gids: list[Map]

    def root(self) -> tuple[int, int]:
        """The ids of the host that are 0:0 in the namespace. Raises ImageError where none are."""
        ids = self.host_ids(0, 0)
        if ids is None:
            raise ImageError("id maps", "the container has no root: 0 is not mapped")
        return ids

    def as_record(self) -> dict[str, list[list[int]]]:
        """As JSON; of_record reads it."""
        return {"uids": [list(row) for row in self.uids], "gids": [list(row) for row in self.gids]}

    def inverse(self) -> Maps:
        """Maps from the ids of the host to those in the namespace."""
        return Maps(*([Map(host, container, size) for container, host, size in rows] for rows in self))

    def host_ids(self, uid: int, gid: int) -> tuple[int, int] | None:
        """The ids of the host that stand for uid and gid; None where one is not mapped."""
        found = mapped(uid, self.uids), mapped(gid, self.gids)
        return None if found[0] is None or found[1] is None else (found[0], found[1])


def mapped(number: int, rows: list[Map]) -> int | None:
    """The id of the host for an id of the namespace; None where there is none."""
    for container, host, size in rows:
        if container <= number < container + size:
            return host + number - container
    return None


def of_record(record: dict[str, list[list[int]]]) -> Maps:
    """What Maps.as_record gave."""
    return Maps(*([Map(*row) for row in record[kind]] for kind in ("uids", "gids")))


def parse(text: str) -> Map:
    """CONTAINER:HOST:SIZE as a Map. Raises ImageError."""
    words = text.split(":")
    if len(words) != 3 or not all(word.isascii() and word.isdigit() and len(word) < 11 for word in words):
        raise ImageError(text, "is not CONTAINER:HOST:SIZE, three numbers")
    row = Map(*map(int, words))
    if not row.size or max(row.container, row.host) + row.size > NO_ID:
        raise ImageError(text, f"maps no id or one beyond {NO_ID - 1}")
    return row


def namespace(maps: Maps) -> int:
    """Fd of a new user namespace with these maps, in which nobody is; the caller closes it. Needs root.

    Not by a fork, which takes 30 ms in a program of 600 MB: WAITER is its first process, and ends
    with its input, at the latest when we do.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    stdio = (read_end, -1, -1)
    try:
        pid, pidfd = kernel.spawn(-1, [WAITER], [], [], kernel.CLONE_NEWUSER, stdio=stdio, path=WAITER)
    except OSError as error:
        os.close(write_end)
        raise ImageError(
            "user namespace", f"{os.fsdecode(WAITER)}: {os.strerror(error.errno or 0)}"
        ) from None
    finally:
        os.close(read_end)
    try:
        for name, rows in (("uid_map", maps.uids), ("gid_map", maps.gids)):
            with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                file.write(b"".join(b"%d %d %d\n" % row for row in rows))
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError("id maps", os.strerror(error.errno or 0)) from None
    finally:
        os.close(write_end)
        kernel.waitid_pidfd(pidfd)
        os.close(pidfd)


def enter() -> Maps:
    """Make the calling process, which must have one thread, root of a new user namespace.

    Its own ids are 0 there, its subordinate ones follow. Raises ImageError without such ids or helpers.
    """
    uid, gid = os.getuid(), os.getgid()
    maps = Maps(_maps(SUBUID, uid, uid), _maps(SUBGID, uid, gid))
    helpers = [_helper("newuidmap"), _helper("newgidmap")]
    ready, go = os.pipe()
    pid = os.getpid()
    child = os.fork()  # stays outside the namespace, where the helpers have their privilege
    if child == 0:
        os.close(go)
        os._exit(_write_maps(ready, pid, helpers, maps))
    os.close(ready)
    try:
        kernel.unshare(kernel.CLONE_NEWUSER)
        os.write(go, b"\n")
    except OSError as error:
        raise ImageError("user namespace", os.strerror(error.errno or 0)) from None
    finally:
        os.close(go)
        _, status = os.waitpid(child, 0)
    if status:
        raise ImageError("user namespace", f"{helpers[0]} or {helpers[1]} failed to write the id maps")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    return maps


def _write_maps(ready: int, pid: int, helpers: list[str], maps: Maps) -> int:
    """In the child: wait for the namespace, then map. Exit status."""
    if not os.read(ready, 1):
        return 0  # there is none: told already
    for helper, rows in zip(helpers, maps, strict=True):
        words = [str(number) for row in rows for number in row]
        if subprocess.run([helper, str(pid), *words], stdin=subprocess.DEVNULL).returncode:
            return 1
    return 0


def _helper(name: str) -> str:
    for place in PLACES:
        if os.access(f"{place}/{name}", os.X_OK):
            return f"{place}/{name}"
    raise ImageError(name, "is not installed (package uidmap): subordinate ids cannot be mapped without it")


def _maps(path: str, uid: int, own: int) -> list[Map]:
    """Own id as 0, then the ranges that the file gives to the user."""
    maps = [Map(0, own, 1)]
    at = 1
    for start, size in ranges(path, uid):
        maps.append(Map(at, start, size))
        at += size
    if at == 1:
        raise ImageError(path, f"gives no ids to the user {uid}")
    return maps


def ranges(path: str, uid: int) -> list[tuple[int, int]]:
    """(first id, number) of the lines for a user, by name or number. Other lines are passed over."""
    names = {str(uid)}
    try:
        names.add(pwd.getpwuid(uid).pw_name)
    except KeyError:
        pass
    try:
        data = kernel.read_file(path, MAX_FILE)
    except FileNotFoundError:
        return []
    found = []
    for line in data.decode("utf-8", "replace").splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[0] in names and all(one.isdecimal() for one in fields[1:]):
            start, size = int(fields[1]), int(fields[2])
            if size and start + size <= 1 << 32:
                found.append((start, size))
    return found

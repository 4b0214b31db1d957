#!/usr/bin/env python3
"""What it costs to put a process into a cgroup, by who writes what where, after idling and not.

    python bench/join.py [ROUNDS]

Needs cgroup v1 with the pids controller, and root. It is why the init joins by itself.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

GROUP = Path("/sys/fs/cgroup/pids") / f"ocirt-join-{os.getpid()}"
IDLE = 0.1  # seconds


def by_parent(file: str) -> float:
    """Microseconds for the parent to write the pid of a waiting child."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(write_fd)
        os.read(read_fd, 1)
        os._exit(0)
    os.close(read_fd)
    fd = os.open(GROUP / file, os.O_WRONLY)
    started = time.perf_counter()
    os.write(fd, str(pid).encode())
    took = time.perf_counter() - started
    os.close(fd)
    os.close(write_fd)
    os.waitpid(pid, 0)
    return took * 1e6


def by_child(file: str) -> float:
    """Microseconds for a single-threaded child to write 0."""
    read_fd, write_fd = os.pipe()
    fd = os.open(GROUP / file, os.O_WRONLY)
    pid = os.fork()
    if pid == 0:
        started = time.perf_counter()
        os.write(fd, b"0")
        os.write(write_fd, f"{(time.perf_counter() - started) * 1e6}".encode())
        os._exit(0)
    os.close(fd)
    os.close(write_fd)
    took = float(os.read(read_fd, 64))
    os.close(read_fd)
    os.waitpid(pid, 0)
    return took


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    GROUP.mkdir()
    try:
        print(f"{'join':40} {'back to back':>14} {'after idling':>14}   (median us, {rounds} rounds)")
        for name, how in (("the parent writes the pid", by_parent), ("the child writes 0", by_child)):
            for file in ("cgroup.procs", "tasks"):
                quick = statistics.median(how(file) for _ in range(rounds))
                idle = statistics.median((time.sleep(IDLE), how(file))[1] for _ in range(rounds))
                print(f"{name + ' into ' + file:40} {quick:14.1f} {idle:14.1f}")
    finally:
        GROUP.rmdir()


if __name__ == "__main__":
    main()

"""--trace FILE: a time for each step of the parent and of the init, as Chrome trace JSON."""

from __future__ import annotations

import posix
import time
from _struct import Struct

from ocirt.errors import StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.plan import Op


NO_STEP = 0xFFFFFFFF
BEFORE_THE_PLAN = ("SPAWN execveat", "SPAWN unshare", "SPAWN wait for the plan")
FLAGS = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC


class Trace:
    """Collects complete events ("ph": "X"); times are CLOCK_MONOTONIC in nanoseconds.

    The format is read by Perfetto and chrome://tracing.
    """

    def __init__(self, path: str) -> None:
        try:
            posix.close(posix.open(path, FLAGS, 0o644))  # now: later a container would be there
        except OSError as error:
            raise StepError(error.errno or 0, "open", "--trace", path) from None
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._init_pid = 0
        self._last_init_ns = 0
        self.begun = time.monotonic_ns()

    def span(self, track: str, name: str, field: str, started_ns: int, ended_ns: int = 0) -> None:
        """One step that began at started_ns and ended now, or at ended_ns."""
        ended = ended_ns or time.monotonic_ns()
        own = posix.getpid()
        self.events.append(
            {
                "name": name,
                "cat": track,
                "ph": "X",
                "ts": started_ns / 1000,
                "dur": max(0, ended - started_ns) / 1000,
                "pid": own,
                "tid": own if track == "parent" else self._init_pid,
                "args": {"field": field},
            }
        )

    def init_started(self, pid: int, started_ns: int) -> None:
        """started_ns: before the clone, for the init may be ahead of us when that returns."""
        self._init_pid = pid
        self._last_init_ns = started_ns

    def init_times(self, ops: list[Op], step: int, data: bytes) -> None:
        """End times of the steps from step on; each began where the one before ended."""
        if step == NO_STEP:
            for name, (ended,) in zip(BEFORE_THE_PLAN, Struct("<Q").iter_unpack(data), strict=False):
                self.span("ocirt-init", name, "linux.namespaces", self._last_init_ns, ended)
                self._last_init_ns = ended
            return
        for i, (ended,) in enumerate(Struct("<Q").iter_unpack(data)):
            if step + i >= len(ops):
                break
            op = ops[step + i]
            name = f"{op.kind} {op.detail}".strip()
            self.span("ocirt-init", name, op.field, self._last_init_ns, ended)
            self._last_init_ns = ended

    def write(self) -> None:
        """Write the file, also after a failure: then it shows how far it came."""
        from ocirt.spec.jsontext import dumps

        own = posix.getpid()
        names = [
            {"name": "process_name", "ph": "M", "pid": own, "tid": own, "args": {"name": "ocirt"}},
            {"name": "thread_name", "ph": "M", "pid": own, "tid": own, "args": {"name": "runtime"}},
        ]
        if self._init_pid:
            args = {"name": "ocirt-init"}
            names.append({"name": "thread_name", "ph": "M", "pid": own, "tid": self._init_pid, "args": args})
        document = {"displayTimeUnit": "ms", "traceEvents": names + self.events}
        fd = posix.open(self.path, FLAGS, 0o644)
        try:
            data = memoryview(dumps(document).encode("utf-8", "surrogateescape"))
            while data:
                data = data[posix.write(fd, data) :]
        finally:
            posix.close(fd)

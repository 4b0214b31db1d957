"""What can be done to a container that runs, and asked of it: each has a module of its own."""

from __future__ import annotations

from ocirt import procfs
from ocirt.errors import InitDied, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocirt.cgroups.freezer import Freezer


LEAST_MEMORY = 1 << 20
END_WAIT_MS = 1000  # for a process that was killed to be dead


def _has_ended(pidfd: int) -> bool:
    import select

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(END_WAIT_MS))


class Running:
    """Base of Container, which has what is declared here."""

    oom_seen = 0  # kills for want of memory that somebody has watched

    if TYPE_CHECKING:
        root: str
        id: str
        saved: dict[str, Any]
        pidfd: int
        warnings: list[str]
        _spec: dict[str, Any] | None

        @property
        def pid(self) -> int: ...
        @property
        def status(self) -> str: ...
        @property
        def spec(self) -> dict[str, Any]: ...
        def manager(self) -> Any: ...
        def wait(self) -> int: ...

    # Changing

    def pause(self) -> None:
        """Stop all processes of a created or running container until resume()."""
        from ocirt.freeze import pause

        pause(self)

    def resume(self) -> None:
        """Let the processes of a paused container go on."""
        from ocirt.freeze import resume

        resume(self)

    def update(
        self,
        resources: dict[str, Any],
        *,
        check: bool = False,
        intel_rdt: dict[str, Any] | None = None,
    ) -> None:
        """Other limits: linux.resources, and linux.intelRdt's schemata, with what is to change (runc's
        update). See ocirt.update.
        """
        from ocirt.update import update

        update(self, resources, check=check, intel_rdt=intel_rdt)

    # Looking

    def pids(self) -> list[int]:
        """All processes of the container. Raises Unsupported where they cannot be told from others."""
        if not self.pid:
            return []
        manager = self.manager()
        if manager is not None and manager.groups():
            pids: list[int] = manager.pids()
            return pids
        if not self.saved["pidNamespace"]:
            raise Unsupported("pids", "a cgroup or a pid namespace of the container's own")
        return procfs.pids_of_namespace(self.saved["pid"])

    def stats(self) -> dict[str, Any]:
        """A stats event with what the container uses now, under runc's keys."""
        from ocirt.events import stats_event

        return stats_event(self)

    def watch(self, interval: float, emit: Callable[[dict[str, Any]], None]) -> None:
        """Give emit stats every interval seconds, and oom events, until the container ends."""
        from ocirt.events import watch

        watch(self, interval, emit)

    def oom_report(self) -> list[str]:
        """What there is to say of processes that were killed for want of memory."""
        killed = max(self._oom_kills(), self.oom_seen)
        if not killed:
            return []
        from ocirt.cgroups.oom import report

        return report(killed, (self.spec.get("linux") or {}).get("resources"))

    def await_end(self) -> int | None:
        """Wait for the init process of whoever made it; its status as wait() has it, if it is told."""
        if self.pidfd >= 0:
            return self.wait()
        from ocirt.events import await_end

        return await_end(self)

    def is_paused(self) -> bool:
        """Was the very group of the container told to freeze? One frozen above can only be thawed there.

        Read here, as state and list ask it for each container and need nothing else of cgroups.
        """
        paths = (self.saved.get("cgroup") or {}).get("paths") or {}
        for controller, name in (("freezer", "freezer.self_freezing"), ("", "cgroup.freeze")):
            if controller in paths:
                try:
                    return procfs.read(f"{paths[controller]}/{name}", 1) == b"1"
                except OSError:  # the group is gone
                    return False
        return False

    def check_started(self, pidfd: int) -> None:
        """Raise InitDied when execve itself was too much for the memory limit: the init had said by then
        that the program follows. Only of a limit that no program fits into: what a larger one ends
        has run. One file is read where nothing was killed.
        """
        if not self._oom_kills():
            return
        resources = (self.spec.get("linux") or {}).get("resources") or {}
        limit = (resources.get("memory") or {}).get("limit") or 0
        if 0 < limit < LEAST_MEMORY and _has_ended(pidfd):
            text = f"{limit} bytes are too few to start in: out of memory"
            raise InitDied(f"linux.resources.memory.limit: {text}")

    def _oom_kills(self) -> int:
        saved = self.saved.get("cgroup") or {}
        paths = saved.get("paths") or {}
        name = "memory/memory.oom_control" if saved.get("version") == 1 else "/memory.events"
        controller, _, file = name.partition("/")
        if controller not in paths:
            return 0
        try:
            lines = procfs.read(f"{paths[controller]}/{file}").split(b"\n")
        except OSError:  # the group is gone, or without the memory controller
            return 0
        return sum(int(line[9:]) for line in lines if line.startswith(b"oom_kill "))

    def _freezer(self) -> Freezer | None:
        from ocirt.cgroups.freezer import freezer_of

        return freezer_of((self.saved.get("cgroup") or {}).get("paths") or {})

"""Sources of bind mounts for a container with a user namespace of its own.

Its root may not be able to reach them, so the runtime's own identity opens them; but inside the
container's mount namespace, whose mounts are slaves of the host's and have their flags locked. A
clone made in the host's namespace would carry the container's mounts back to the host and let it
lift nosuid or ro.
"""

from __future__ import annotations

import _thread

from ocirt import kernel
from ocirt.errors import StepError
from ocirt.plan import AT_FDCWD, SYNC_SOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

    Source = tuple[str, str, bytes, int]  # field, detail, path, flags of open_tree


def receive_source(ctx: Context, field: str, detail: str, path: bytes, flags: int, register: int) -> None:
    """The register gets the source: asked for at one sync point, received one by one."""
    plan = ctx.plan
    if ctx.sources is None:
        sources: list[Source] = []
        ctx.sources = sources
        plan.add("sync", "mounts", SYNC_SOURCES)
        text = "open the sources in the container's mount namespace"
        plan.at("SOURCES", "mounts", text, lambda launch: _open_all(launch, sources))
    ctx.sources.append((field, detail, path, flags))
    plan.add("receive_fd", field, register, detail=detail)


def _open_all(launch: Any, sources: list[Source]) -> None:
    """In a thread of its own, which ends there: a thread that has left its mount namespace shares
    no file system state with the others and has no way back that is worth having.
    """
    opened: list[int] = []
    failures: list[BaseException] = []
    done = _thread.allocate_lock()
    done.acquire()

    def work() -> None:
        try:
            kernel.unshare(kernel.CLONE_FS)
            kernel.setns(launch.pidfd, kernel.CLONE_NEWNS)
            for field, detail, path, flags in sources:
                try:
                    opened.append(kernel.open_tree(AT_FDCWD, path, flags))
                except OSError as error:
                    raise StepError(error.errno or 0, "open_tree", field, detail) from None
        except BaseException as error:  # raised again where somebody can handle it
            failures.append(error)
        finally:
            done.release()

    launch.to_send = opened  # the launch owns them, also after a failure
    _thread.start_new_thread(work, ())
    done.acquire()
    if failures:
        raise failures[0]

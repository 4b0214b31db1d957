"""delete: remove what create made."""

from __future__ import annotations

from ocirt.cli.parse import BOOL, expect
from ocirt.container import Container
from ocirt.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"force": BOOL, "f": "force", "regex": BOOL, "r": "regex"}


def run(call: Call) -> int:
    expect("delete", call.words, 1, 1)
    force = bool(call.values.get("force"))

    def delete(container: Container) -> None:
        container.delete(force=force)
        for warning in container.warnings:
            call.log.warning(warning)

    if call.values.get("regex"):
        from ocirt.cli.match import each

        return each(call, delete, unread)
    try:
        delete(unread(call.words[0], call.root))
    except NotFound:
        if not force:
            raise
    return 0


def unread(container_id: str, root: str) -> Container:
    """Not by load(): of a create that was killed early, or a damaged state, there is none to load."""
    return Container(root, container_id, {})

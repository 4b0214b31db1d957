"""kill --regex and delete --regex: the same for each container whose id matches (as crun)."""

from __future__ import annotations

import re

from ocirt import state
from ocirt.container import Container
from ocirt.errors import NotFound, OcirtError, Several, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ocirt.cli import Call


def each(
    call: Call,
    act: Callable[[Container], None],
    make: Callable[[str, str], Container] = Container.load,
) -> int:
    """Do act for all that match; what fails does not keep the others from their turn.

    make: from id and root to the object that act gets.
    """
    try:
        pattern = re.compile(call.words[0])
    except re.error as error:
        raise UsageError(f"invalid regular expression {call.words[0]!r}: {error}") from None
    failed: list[OcirtError] = []
    for container_id in state.ids(call.root):
        if not pattern.search(container_id):
            continue
        try:
            act(make(container_id, call.root))
        except NotFound:
            continue  # deleted while we looked
        except OcirtError as error:
            failed.append(OcirtError(f"{container_id}: {error}"))
    if failed:
        raise failed[0] if len(failed) == 1 else Several(failed)
    return 0

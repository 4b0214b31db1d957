"""kill: send a signal to a container."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

from ocirt.cli.parse import BOOL, expect
from ocirt.container import Container
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"all": BOOL, "a": "all", "regex": BOOL, "r": "regex"}
LAST = 64


def run(call: Call) -> int:
    expect("kill", call.words, 1, 2)
    everyone = bool(call.values.get("all"))
    if call.values.get("regex"):
        from ocirt.cli.match import each

        signal = parse_signal(call.words[1] if len(call.words) > 1 else "TERM")
        return each(call, lambda container: container.kill(signal, all=everyone))
    container = Container.load(call.words[0], call.root)
    container.kill(parse_signal(call.words[1] if len(call.words) > 1 else "TERM"), all=everyone)
    return 0


def parse_signal(text: str) -> int:
    """Number of a signal: 0 to 64, KILL, SIGKILL, RTMIN+3, RTMAX-1, in any case."""
    if text.isascii() and text.isdigit() and len(text) < 4:
        number = int(text)
    else:
        name = text.upper().removeprefix("SIG")
        base, sign, offset = name[:5], name[5:6], name[6:]
        if base in ("RTMIN", "RTMAX") and sign in ("", "+", "-") and (offset.isdecimal() or not sign):
            number = _signal.SIGRTMIN if base == "RTMIN" else _signal.SIGRTMAX
            number += int(sign + offset) if sign else 0
            if not _signal.SIGRTMIN <= number <= _signal.SIGRTMAX:
                number = -1
        else:
            found = getattr(_signal, f"SIG{name}", -1) if name.isalnum() else -1
            number = found if isinstance(found, int) else -1
    if not 0 <= number <= LAST:
        raise OcirtError(f'unknown signal "{text}"')
    return number

"""kill: send a signal to a container."""

from __future__ import annotations

from ocirt._shim import lib
from ocirt.cli.parse import BOOL, expect
from ocirt.container import Container
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"all": BOOL, "a": "all", "regex": BOOL, "r": "regex"}
ALIASES = {"CLD": "CHLD", "POLL": "IO", "IOT": "ABRT"}
# As the C library counts: it keeps the first two real-time signals for itself.
RTMIN, RTMAX = 34, 64


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
    number = -1
    if text.isascii() and text.isdigit() and len(text) < 4:
        number = int(text)
    elif text.isascii():
        name = text.upper().removeprefix("SIG")
        if name[:5] in ("RTMIN", "RTMAX"):
            number = _real_time(name)
        elif name.isalnum():
            number = getattr(lib, f"SIG{ALIASES.get(name, name)}", -1)
    if not 0 <= number <= RTMAX:
        raise OcirtError(f'unknown signal "{text}"')
    return number


def _real_time(name: str) -> int:
    """RTMIN+N, RTMAX-N or one of the two alone; -1 if it is none of these."""
    base = RTMIN if name[:5] == "RTMIN" else RTMAX
    sign, digits = name[5:6], name[6:]
    if not sign:
        return base
    if sign != ("+" if base == RTMIN else "-") or not digits.isdigit() or len(digits) > 2:
        return -1
    number = base + int(sign + digits)
    return number if RTMIN <= number <= RTMAX else -1

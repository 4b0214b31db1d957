"""ps: the processes of a container, as the host's ps shows them or as an array of pids."""

from __future__ import annotations

from ocirt.cli.output import out
from ocirt.cli.parse import TEXT, expect
from ocirt.container import Container
from ocirt.errors import OcirtError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocirt.cli import Call

OPTIONS: dict[str, int | str] = {"format": TEXT, "f": "format"}


def run(call: Call) -> int:
    expect("ps", call.words, 1)
    form = call.values.get("format", "table")
    if form not in ("table", "json"):
        raise OcirtError("invalid format option")
    pids = Container.load(call.words[0], call.root).pids()
    if form == "json":
        from ocirt.spec.jsontext import dumps

        out(dumps(pids or None) + "\n")  # null for none, as runc has it
    else:
        out(rows_of(pids, host_ps(call.words[1:] or ["-ef"])))
    return 0


def host_ps(options: list[str]) -> str:
    import subprocess  # 15 ms: people look at tables, engines ask for json

    try:
        done = subprocess.run(["ps", *options], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        raise OcirtError("there is no ps command on this host; --format json does without it") from None
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise OcirtError(f"ps: {words[0] if words else f'exit status {done.returncode}'}")
    return done.stdout.decode("utf-8", "surrogateescape")


def rows_of(pids: list[int], text: str) -> str:
    """The header and the lines whose column PID holds one of pids. Raises OcirtError without it."""
    header, *lines = text.splitlines(keepends=True) or [""]
    try:
        column = header.split().index("PID")
    except ValueError:
        raise OcirtError("ps: there is no column PID in the output that was asked for") from None
    wanted = set(map(str, pids))
    return header + "".join(line for line in lines if _word(line, column) in wanted)


def _word(line: str, column: int) -> str:
    words = line.split(None, column + 1)
    return words[column] if len(words) > column else ""

"""The command line: global options, one module per verb, errors to one line and an exit status."""

from __future__ import annotations

import posix

from ocirt.cli.parse import BOOL, TEXT, parse
from ocirt.errors import OcirtError, UsageError
from ocirt.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GLOBAL: dict[str, int | str] = {
    "root": TEXT,
    "log": TEXT,
    "log-format": TEXT,
    "log-level": TEXT,
    "debug": BOOL,
    "systemd-cgroup": BOOL,
    "cgroup-manager": TEXT,
    "rootless": TEXT,
    "help": BOOL,
    "h": "help",
    "version": BOOL,
    "v": "version",
}
HELP: dict[str, int | str] = {"help": BOOL, "h": "help"}
VERBS = (
    "create",
    "delete",
    "doctor",
    "events",
    "exec",
    "features",
    "kill",
    "list",
    "pause",
    "plan",
    "ps",
    "resume",
    "run",
    "spec",
    "start",
    "state",
    "update",
    "verify",
    "wait",
)
NO_SUCH_VERB = 3  # the status of urfave/cli


class Call:
    """One call of the command: options of the program (given) and of the verb (values), words."""

    def __init__(self) -> None:
        self.log = Log()
        self.verb = ""
        self.given: dict[str, Any] = {}
        self.values: dict[str, Any] = {}
        self.words: list[str] = []

    def __getattr__(self, name: str) -> Any:  # only called for what was not set yet
        if name != "root":
            raise AttributeError(name)
        from ocirt.cli.root import state_root

        self.root = state_root(self.given.get("root"))
        return self.root

    if TYPE_CHECKING:
        root: str


def main(argv: list[str]) -> int:
    """Run one command, argv without the program's name; its exit status."""
    call = Call()
    try:
        return _main(call, argv)
    except UsageError as error:
        from ocirt.cli.help import usage

        usage(call.verb, str(error))
        call.log.error(str(error))
        return 1
    except OcirtError as error:
        return _failed(call, error, str(error), error.exit_status)
    except OSError as error:
        words = [error.filename, error.strerror or str(error)]
        told = ": ".join(str(word) for word in words if word)
        return _failed(call, error, told, 1)
    except KeyboardInterrupt as error:
        return _failed(call, error, "interrupted", 128 + 2)
    except Exception as error:
        return _failed(call, error, f"internal error: {type(error).__name__}: {error}", 1)


def _failed(call: Call, error: BaseException, message: str, status: int) -> int:
    if call.log.debugging:
        import traceback

        call.log.debug(traceback.format_exc())
    call.log.error(message, getattr(error, "__notes__", ()))
    # An exec's program may end with 1: engines tell the two apart by this status.
    return 255 if call.verb == "exec" and status == 1 else status


def _main(call: Call, argv: list[str]) -> int:
    given, rest = parse(argv, GLOBAL, mixed=False)
    call.given = given
    if given.get("version"):
        from ocirt.cli.version import show

        return show()
    if given.get("help") or not rest:
        from ocirt.cli.help import program

        return program()
    level = "debug" if given.get("debug") else given.get("log_level", "")
    call.log = Log(given.get("log", ""), given.get("log_format", ""), level)
    name, *words = rest
    if name in ("help", "h"):
        if not words:
            from ocirt.cli.help import program

            return program()
        name, words = words[0], ["--help"]
    if name not in VERBS:
        call.log.error(" ".join(["No help topic for", repr(name)]))
        return NO_SUCH_VERB
    module = __import__(f"ocirt.cli.{name}", None, None, ("",))
    call.verb = name
    # What follows the id of exec and ps is a command's, or options of the host's ps.
    mixed = name not in ("exec", "ps")
    call.values, call.words = parse(words, {**HELP, **module.OPTIONS}, mixed=mixed)
    if call.values.get("help"):
        from ocirt.cli.help import verb

        return verb(name)
    if call.log.debugging:
        call.log.debug(" ".join(["pid", str(posix.getpid()), name, *words]))
    status: int = module.run(call)
    return status

"""What the command has to say: one line on stderr, and a record in --log FILE.

Text records look like logrus's (time="…" level=error msg="…"), JSON ones are objects of level, msg
and time, one per line; engines read both. Records are appended by one write(2) each, so that
commands that share a file do not mix their lines.
"""

from __future__ import annotations

import posix
import time

from ocirt.errors import StepError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocirt.logsink import Sink

LEVELS = {"error": 1, "warning": 2, "info": 3, "debug": 4}
FORMATS = ("text", "json")
# podman exits with 126 or 127 when a line of a failed call has these words: what says them instead.
ALARMING = (
    ("permission denied", "EACCES"),
    ("operation not permitted", "EPERM"),
    ("no such file or directory", "ENOENT"),
    ("executable file not found in", "no executable in"),
)
_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+")


class Log:
    """Where records go. target: "" (stderr alone), a path, file:PATH, journald:NAME, syslog:NAME.

    form "" means: records as text, stderr as plain lines. Raises UsageError for a target, form or
    level that does not exist, StepError when the file cannot be opened.
    """

    def __init__(self, target: str = "", form: str = "", level: str = "") -> None:
        if form and form not in FORMATS:
            raise UsageError(f"invalid log-format: {form}")
        if level and level not in LEVELS:
            raise UsageError(f"invalid log-level: {level}")
        self.form = form
        self.level = LEVELS[level or "warning"]
        self._sink: Sink | None = None
        self._fd = -1
        kind, colon, name = target.partition(":")
        if colon and kind in ("journald", "syslog"):
            from ocirt.logsink import Sink

            self._sink = Sink(kind, name)
            return
        path = name if colon and kind == "file" else target
        if path and path != "/dev/stderr":
            flags = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOCTTY
            try:
                self._fd = posix.open(path, flags, 0o644)
            except OSError as error:
                raise StepError(error.errno or 0, "open", "--log", path) from None

    @property
    def debugging(self) -> bool:
        return self.level >= LEVELS["debug"]

    def error(self, message: str, warnings: Sequence[str] = ()) -> None:
        """The one line that says why the command failed, on stderr in any case; then what went
        wrong besides. In JSON they are members of the error's object: podman reads the log of a
        failed call as one.
        """
        if self.level < LEVELS["warning"]:
            warnings = ()
        warnings = [calm(warning) for warning in warnings]
        if self._elsewhere:
            _write(2, _plain(message))
        if self.form == "json" and self._sink is None:
            self._record("error", message, warnings)
            return
        self._record("error", message)
        for warning in warnings:
            self._record("warning", warning)

    def warning(self, message: str) -> None:
        self._record("warning", calm(message))

    def debug(self, message: str) -> None:
        self._record("debug", message)

    @property
    def _elsewhere(self) -> bool:
        return self._fd >= 0 or self._sink is not None

    def _record(self, level: str, message: str, warnings: Sequence[str] = ()) -> None:
        if LEVELS[level] > self.level:
            return
        message = _text(message)
        if self._sink is not None:
            self._sink.send(level, message)
        elif self._elsewhere or self.form:
            fd = self._fd if self._elsewhere else 2
            _write(
                fd,
                _json_line(level, message, warnings) if self.form == "json" else _text_line(level, message),
            )
        else:
            _write(2, _plain(message if level == "error" else f"{level}: {message}"))


def calm(warning: str) -> str:
    """A warning without the words in which podman looks for the reason of a failure."""
    for words, instead in ALARMING:
        # Letter by letter: lower() makes some letters two.
        while (start := warning.translate(_LOWER).find(words)) >= 0:
            warning = warning[:start] + instead + warning[start + len(words) :]
    return warning


def _text(message: str) -> str:
    return message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _plain(message: str) -> str:
    # A person sees who speaks; an engine puts the runtime's name in front by itself.
    prefix = "ocirt: " if posix.isatty(2) else ""
    return prefix + message.replace("\n", " ") + "\n"


def _text_line(level: str, message: str) -> str:
    if not message or not _BARE.issuperset(message):
        from ocirt.spec.jsontext import dumps

        message = dumps(message)
    return f'time="{_now()}" level={level} msg={message}\n'


def _json_line(level: str, message: str, warnings: Sequence[str] = ()) -> str:
    from ocirt.spec.jsontext import dumps

    record: dict[str, object] = {"level": level, "msg": message, "time": _now()}
    if warnings:
        record["warnings"] = [_text(warning) for warning in warnings]
    return dumps(record) + "\n"


def _now() -> str:
    """RFC 3339, in UTC so that no time zone file is read."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _write(fd: int, line: str) -> None:
    """A log that is full or gone must not keep the command from doing its work."""
    try:
        posix.write(fd, line.encode("utf-8", "replace"))
    except OSError:
        pass

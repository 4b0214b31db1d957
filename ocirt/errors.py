"""What can go wrong, as one tree of exceptions; str() of each is the one line the user reads."""

from __future__ import annotations

import errno as _errno
from posix import strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class OcirtError(Exception):
    """Root of everything ocirt raises on purpose. exit_status is the command's."""

    exit_status = 1


class SpecError(OcirtError):
    """A document (config.json, process.json, state) does not say what the specification allows.

    field is the config.json path (mounts[3].destination) or a JSON pointer; section names the
    part of runtime-spec that decides, if one does.
    """

    def __init__(self, field: str, reason: str, section: str = "") -> None:
        super().__init__(field, reason, section)
        self.field = field
        self.reason = reason
        self.section = section

    def __str__(self) -> str:
        text = f"{self.field}: {self.reason}" if self.field else self.reason
        return f"{text} ({self.section})" if self.section else text


class StepError(OcirtError, OSError):
    """A kernel call failed while one config.json field was being applied."""

    def __init__(self, errno: int, call: str, field: str = "", detail: str = "") -> None:
        OSError.__init__(self, errno, strerror(errno))
        self.call = call
        self.field = field
        self.detail = detail

    def __str__(self) -> str:
        where = f"{self.field} ({self.detail})" if self.field and self.detail else self.field or self.detail
        parts = [part for part in (where, self.call, self.strerror) if part]
        return ": ".join(parts)


class InitDied(OcirtError):
    """ocirt-init ended before the container was ready; reason says how (signal, OOM)."""


class ExecutableError(StepError):
    """The program of process.args cannot be run: wording that engines turn into 126 and 127."""

    def __str__(self) -> str:
        name = self.detail
        if self.errno == _errno.ENOENT and "/" not in name:
            return f'exec: "{name}": executable file not found in $PATH'
        if self.errno == _errno.ENOENT:
            return f'exec: "{name}": stat {name}: no such file or directory{self.hint}'
        return f'exec: "{name}": {(self.strerror or "").lower()}{self.hint}'

    hint = ""


class NotFound(OcirtError):
    """No container has this id. The wording is runc's: engines look for "does not exist"."""

    def __init__(self, container_id: str = "") -> None:
        super().__init__(container_id)
        self.container_id = container_id

    def __str__(self) -> str:
        return "container does not exist"


class AlreadyExists(OcirtError):
    """The id is taken."""

    def __str__(self) -> str:
        return f"container with given ID already exists: {self.args[0]}"


class WrongState(OcirtError):
    """The container is not in a state that allows the command."""

    def __init__(self, now: str, wanted: str, text: str = "") -> None:
        super().__init__(now, wanted)
        self.now = now
        self.wanted = wanted
        self.text = text

    def __str__(self) -> str:
        return self.text or f"container is {self.now}, wanted {self.wanted}"


class Unsupported(OcirtError):
    """The field is valid but cannot be applied here; needs says what is missing."""

    def __init__(self, field: str, needs: str) -> None:
        super().__init__(field, needs)
        self.field = field
        self.needs = needs

    def __str__(self) -> str:
        return f"{self.field}: not supported: {self.needs}"


class HookFailed(OcirtError):
    """A hook failed, timed out or could not be run."""

    def __init__(self, field: str, path: str, reason: str, stderr: str = "", seconds: float = 0.0) -> None:
        super().__init__(field, path, reason)
        self.field = field
        self.path = path
        self.reason = reason
        self.stderr = stderr
        self.seconds = seconds

    def __str__(self) -> str:
        text = f"{self.field} ({self.path}): {self.reason} after {self.seconds:.3f} s"
        tail = " | ".join(line for line in self.stderr.strip().splitlines()[-5:])
        return f"{text}, stderr: {tail}" if tail else text


class CgroupError(OcirtError):
    """A cgroup file refused a value. field is the config.json path."""

    def __init__(self, field: str, file: str, value: str, errno: int, hint: str = "") -> None:
        super().__init__(field, file, value, errno)
        self.field = field
        self.file = file
        self.value = value
        self.errno = errno
        self.hint = hint

    def __str__(self) -> str:
        what = f"write {self.value!r} to {self.file}" if self.value else self.file
        text = f"{self.field}: {what}: {strerror(self.errno)}"
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(OcirtError):
    """The command line is wrong."""


class Several(OcirtError):
    """Several independent findings, told on one line."""

    def __init__(self, errors: Sequence[OcirtError]) -> None:
        super().__init__(*errors)

    def __str__(self) -> str:
        return "; ".join(str(error) for error in self.args)


def taken_back(error: BaseException, back: Callable[[], None]) -> None:
    """Call back; what failed first is what counts, and if that could not be undone it says so."""
    try:
        back()
    except Exception as another:
        error.add_note(f"and what was changed before stays: {another}")

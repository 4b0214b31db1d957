"""The part of Go's templates that `docker inspect --format` is mostly used with."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from oci_image.errors import ImageError
from ocirt.spec.jsontext import dumps

if TYPE_CHECKING:
    from typing import Any

SUPPORTED = "{{.member}} and {{json .member}} are"
_ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_WORD = re.compile(r"\s*(json\s+)?((?:\.[A-Za-z0-9_-]+)+|\.)\s*")


def fill(text: str, document: dict[str, Any]) -> str:
    """text with {{.member.member}} replaced by the value (text as it is, else JSON), {{json .x}} by JSON.

    Raises ImageError for any other action, and for a member that the document does not have.
    """

    def replace(match: re.Match[str]) -> str:
        action = _WORD.fullmatch(match[1])
        if not action:
            raise ImageError(
                "--format", f"{match[0]} is not supported: {{{{.member}}}} or {{{{json .member}}}}"
            )
        value: Any = document
        for name in action[2].strip(".").split(".") if action[2] != "." else ():
            if isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            elif isinstance(value, dict) and name in value:
                value = value[name]
            else:
                known = ", ".join(value) if isinstance(value, dict) else ""
                have = f"; there is {known}" if known else ""
                raise ImageError("--format", f"{action[2]}: there is no {name}{have}")
        return value if isinstance(value, str) and not action[1] else dumps(value)

    return _ACTION.sub(replace, text)

"""Whether a filter is loaded; what it decides cannot be read without stopping the process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target

MODES = {"0": "none", "1": "strict", "2": "filter"}


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    return [("linux.seccomp", "filter", MODES.get(target.status().get("Seccomp", ""), "unknown"))]

"""ocirt: an OCI container runtime, as a library. `import ocirt` loads nothing else.

The names below come from their modules on first use.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HOME = {
    "Container": "ocirt.container",
    "CreateOptions": "ocirt.options",
    "ExecOptions": "ocirt.options",
    "OcirtError": "ocirt.errors",
    "SpecError": "ocirt.errors",
    "StepError": "ocirt.errors",
    "ExecutableError": "ocirt.errors",
    "InitDied": "ocirt.errors",
    "NotFound": "ocirt.errors",
    "AlreadyExists": "ocirt.errors",
    "WrongState": "ocirt.errors",
    "Unsupported": "ocirt.errors",
    "HookFailed": "ocirt.errors",
    "CgroupError": "ocirt.errors",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'ocirt' has no attribute {name!r}")
    module = __import__(home, None, None, [name])
    value = globals()[name] = getattr(module, name)
    return value

"""process.capabilities: the five sets as plan ops.

Sets are bit masks. A name that this kernel does not know is warned about and ignored, as runc
does, so that a config.json of a newer engine runs on an older kernel. Without
process.capabilities the process gets none.
"""

from __future__ import annotations

from ocirt import kernel
from ocirt.errors import SpecError, StepError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

FIELD = "process.capabilities"
SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
ALL = (1 << 64) - 1
SECTION = "config.md, Linux Process"


def apply_bounding(ctx: Context, capabilities: dict[str, Any] | None) -> None:
    """Drop what no exec may give back; needs CAP_SETPCAP, so before the other sets."""
    names = (capabilities or {}).get("bounding") or ()
    mask, unknown = parse(names)
    for other in SETS[1:]:
        unknown += [name for name in parse((capabilities or {}).get(other) or ())[1] if name not in unknown]
    if unknown:
        ctx.warnings.append(f"ignoring unknown or unavailable capabilities: [{' '.join(unknown)}]")
    ctx.plan.add("bounding_set", f"{FIELD}.bounding", mask, detail=" ".join(names))


def power_over_files(ctx: Context) -> None:
    """Give back to a user other than root, for a moment, root's power over files."""
    process = ctx.spec.get("process") or {}
    if not (process.get("user") or {}).get("uid"):
        return  # root has not lost it yet
    power = (1 << kernel.CAP_DAC_OVERRIDE | 1 << kernel.CAP_DAC_READ_SEARCH) & held(ctx)
    if power:
        masks = wanted(process)
        permitted = masks["permitted"] | needed(ctx) | power
        # The inheritable set may only shrink to what is permitted, so it has its final value.
        ctx.plan.add("capset", "process.cwd", power, permitted, masks["inheritable"], detail="enter as root")


def apply_sets(ctx: Context, capabilities: dict[str, Any] | None) -> None:
    """Permitted, effective, inheritable, ambient; CAP_SYS_ADMIN stays while seccomp needs it.

    The kernel has no ambient capability that is not inheritable; asking for one (the config.json
    of older `runc spec` does) has no effect, as with runc.
    """
    masks = wanted(ctx.spec.get("process") or {})
    permitted = masks["permitted"]
    _check(masks)
    ambient = masks["ambient"] & permitted & masks["inheritable"]
    extra = needed(ctx)
    lacking = (permitted | extra) & ~held(ctx)
    if lacking:
        ctx.plan.at("OPEN", FIELD, "capset", lambda _launch: _refuse(lacking))
    effective = masks["effective"] | extra
    detail = " ".join((capabilities or {}).get("permitted") or ()) or "none"
    ctx.plan.add("capset", FIELD, effective, permitted | extra, masks["inheritable"], detail=detail)
    if ambient:  # the change of ids has cleared it; capset has for root
        detail = " ".join((capabilities or {}).get("ambient") or ())
        ctx.plan.add("ambient", f"{FIELD}.ambient", ambient, detail=detail)


def _refuse(lacking: int) -> None:
    raise StepError(kernel.EPERM, "capset", FIELD, f"the runtime itself lacks {names_of(lacking)}")


def _check(masks: dict[str, int]) -> None:
    """What capset(2) would refuse without saying why."""
    for name, other in (("effective", "permitted"), ("inheritable", "bounding")):
        surplus = masks[name] & ~masks[other]
        if surplus:
            raise SpecError(f"{FIELD}.{name}", f"{names_of(surplus)} is not in {other}", SECTION)


def wanted(process: dict[str, Any]) -> dict[str, int]:
    """The five sets as masks, without names that are unknown."""
    capabilities = process.get("capabilities") or {}
    return {name: parse(capabilities.get(name) or ())[0] for name in SETS}


def needed(ctx: Context) -> int:
    """What the init keeps until execve: CAP_SYS_ADMIN, to load a filter without noNewPrivileges."""
    process = ctx.spec.get("process") or {}
    if ctx.linux.get("seccomp") and not process.get("noNewPrivileges"):
        return int(1 << kernel.CAP_SYS_ADMIN)
    return 0


def held(ctx: Context) -> int:
    """What the init holds before it gives anything up.

    A user namespace gives all. Another user than root can only get there by one, so that plans
    of ordinary users (`ocirt plan`) look like root's.
    """
    if ctx.host.euid != 0:
        return ALL
    own = ctx.host.capabilities
    return own if not ctx.userns else ALL & ~(1 << kernel.CAP_SYS_RESOURCE) | own


def parse(names: list[str] | tuple[str, ...]) -> tuple[int, list[str]]:
    """(mask, unknown names)."""
    mask = 0
    unknown = []
    for name in names:
        number = getattr(kernel, name, None) if name.startswith("CAP_") and name != "CAP_LAST_CAP" else None
        if number is None:
            unknown.append(name)
        else:
            mask |= 1 << number
    return mask, unknown


def names_of(mask: int) -> str:
    """Names, for people, in the order of their numbers; too slow for the good path."""
    from ocirt._shim import lib

    found = []
    for name in dir(lib):
        if name.startswith("CAP_") and name != "CAP_LAST_CAP" and mask >> getattr(kernel, name) & 1:
            found.append((getattr(kernel, name), name))
    return " ".join(name for _, name in sorted(found))

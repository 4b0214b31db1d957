"""The capability sets of a running process, from /proc/PID/status."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target

# By number (capabilities(7)); the kernel's table, written down once more on purpose.
TABLE = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG
    MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM
    BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
NAMES = TABLE.split()
LINES = {
    "bounding": "CapBnd",
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "ambient": "CapAmb",
}


def observe(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """What execve makes of the sets that were asked for, next to what the process has.

    capabilities(7): root's program gets the bounding and the inheritable set, any other user's
    the ambient set (unless its file has capabilities, which this does not look at).
    """
    process = spec["process"]
    asked = process.get("capabilities") or {}
    sets = {name: {n for n in asked.get(name) or () if n.removeprefix("CAP_") in NAMES} for name in LINES}
    sets["ambient"] &= sets["permitted"] & sets["inheritable"]
    if (process.get("user") or {}).get("uid"):
        sets["permitted"] = sets["effective"] = sets["ambient"]
    else:
        sets["permitted"] = sets["effective"] = sets["bounding"] | sets["inheritable"]
    if process.get("noNewPrivileges"):
        # execve must not gain: the new set is cut down to the old one
        kept = {n for n in asked.get("permitted") or () if n.removeprefix("CAP_") in NAMES}
        sets["permitted"] = sets["permitted"] & kept
        sets["effective"] = sets["effective"] & kept
    status = target.status()
    found = []
    for name, line in LINES.items():
        in_force = {f"CAP_{n}" for i, n in enumerate(NAMES) if int(status[line], 16) >> i & 1}
        field = f"process.capabilities.{name}"
        found.append((field, " ".join(sorted(sets[name])) or "none", " ".join(sorted(in_force)) or "none"))
    return found

"""The features document (runtime-spec, features.md), out of the tables that do the work."""

from __future__ import annotations

from typing import Any

from ocirt import __version__, kernel
from ocirt._shim import lib
from ocirt.cgroups.systemd import ANNOTATION, SUBGROUP
from ocirt.context import NAMESPACE_TYPES
from ocirt.fields import UNSUPPORTED
from ocirt.mount_options import ATIME, ATTRIBUTES, IGNORED, PROPAGATION, SUPERBLOCK
from ocirt.spec.example import VERSION
from ocirt.version import commit, seccomp_version

OLDEST_VERSION = "1.0.0"
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
# Names of config-linux.md; which of them libseccomp knows depends on its version.
ARCHITECTURES = (
    "AARCH64 ARM LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 "
    "PPC PPC64 PPC64LE RISCV64 S390 S390X SH SHEB X32 X86 X86_64"
)
SECCOMP_FLAGS = ("LOG", "SPEC_ALLOW", "TSYNC", "WAIT_KILLABLE_RECV")


def features() -> dict[str, Any]:
    """What this build can do; whether the host allows it is another question (features.md)."""
    return {
        "ociVersionMin": OLDEST_VERSION,
        "ociVersionMax": VERSION,
        "hooks": list(HOOKS),
        "mountOptions": mount_options(),
        "linux": {
            "namespaces": sorted(NAMESPACE_TYPES),
            "capabilities": capabilities(),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": seccomp(),
            "apparmor": {"enabled": True},
            "selinux": {"enabled": True},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": memory_policy(),
            "mountExtensions": {"idmap": {"enabled": _maps_ids()}},
            "netDevices": {"enabled": "linux.netDevices" not in UNSUPPORTED},
        },
        "annotations": _annotations(),
        "potentiallyUnsafeConfigAnnotations": [ANNOTATION, SUBGROUP],
    }


def mount_options() -> list[str]:
    """The words that are not passed on to the file system."""
    words = {"bind", "rbind", "remount", "tmpcopyup", *SUPERBLOCK, *IGNORED}
    for table in (ATTRIBUTES, ATIME, PROPAGATION):
        words.update(table, (f"r{word}" for word in table))
    return sorted(words)


def capabilities() -> list[str]:
    """All that the headers of this build knew, by number."""
    names = [name for name in dir(lib) if name.startswith("CAP_") and name != "CAP_LAST_CAP"]
    return sorted(names, key=lambda name: getattr(kernel, name))


def seccomp() -> dict[str, Any]:
    from ocirt.seccomp_compile import ACTIONS

    try:
        from ocirt._seccomp import lib as libseccomp
    except ImportError:
        return {"enabled": False}
    known = [
        name for name in ARCHITECTURES.split() if libseccomp.seccomp_arch_resolve_name(name.lower().encode())
    ]
    flags = [f"SECCOMP_FILTER_FLAG_{name}" for name in SECCOMP_FLAGS]
    return {
        "enabled": True,
        "actions": sorted(ACTIONS),
        "operators": sorted(name for name in dir(libseccomp) if name.startswith("SCMP_CMP_")),
        "archs": [f"SCMP_ARCH_{name}" for name in known],
        "knownFlags": flags,
        "supportedFlags": flags,
    }


def memory_policy() -> dict[str, Any]:
    names = [name for name in dir(lib) if name.startswith("MPOL_")]
    flags = [name for name in names if name.startswith("MPOL_F_")]
    return {"modes": [name for name in names if name not in flags], "flags": flags}


def _annotations() -> dict[str, str]:
    found = {"org.ocirt.version": __version__, "org.ocirt.commit": commit()}
    if seccomp_version():
        found["io.github.seccomp.libseccomp.version"] = seccomp_version()
    return found


def _maps_ids() -> bool:
    """Does a mount with the option idmap get further than its options?"""
    from ocirt.errors import Unsupported
    from ocirt.mount_options import parse

    try:
        parse(["bind", "idmap"], "mounts[0]")
    except Unsupported:
        return False
    return True

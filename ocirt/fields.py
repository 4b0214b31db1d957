"""The map of the house: which field of config.json is applied where, read back how, and when.

Rows stand in the order in which they are applied. The compiler, `ocirt features`, `ocirt verify`
and conformance/FIELDS.md are all driven by this table; a test walks schemas/ and fails when a
property has neither a row nor an entry in IGNORED.
"""

from __future__ import annotations

from ocirt.errors import Unsupported
from ocirt.plan import CHILD, ENTER, LAST, PROCESS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocirt.context import Context

# When a row's applier is called: if its field is there, in any case (also for what the field's
# absence means), or also for exec.
PRESENT, ALWAYS = False, True
CREATE, BOTH = "create", "create exec"

# field, applier, observer, phase, called without the field?, for which, section of runtime-spec
# fmt: off
ROWS: tuple[tuple[str, str, str, str, bool, str, str], ...] = (
    # ENTER: the init is still in the runtime's namespaces
    ("process.oomScoreAdj", "process:apply_oom_score_adj", "process:observe_oom_score_adj", ENTER, PRESENT, CREATE, "config.md, Linux Process"),
    ("linux.resources", "cgroups.apply:apply", "cgroups:observe", ENTER, ALWAYS, CREATE, "config-linux.md, Control groups"),
    ("linux.intelRdt", "intelrdt:apply", "intelrdt:observe", ENTER, PRESENT, CREATE, "config-linux.md, IntelRdt"),
    ("linux.namespaces", "namespaces:apply_namespaces", "namespaces:observe", ENTER, ALWAYS, CREATE, "config-linux.md, Namespaces"),
    # CHILD: inside the namespaces, the root still the host's
    ("process", "namespaces:apply_session", "", CHILD, ALWAYS, BOTH, "runtime.md, Create"),
    ("root", "rootfs:apply_root", "rootfs:observe_root", CHILD, ALWAYS, CREATE, "config.md, Root"),
    ("linux.maskedPaths", "rootfs:prepare_masks", "", CHILD, PRESENT, CREATE, "config-linux.md, Masked Paths"),
    ("mounts", "mounts:apply_mounts", "mounts:observe", CHILD, PRESENT, CREATE, "config.md, Mounts"),
    ("linux.devices", "devices:apply_devices", "devices:observe", CHILD, ALWAYS, CREATE, "config-linux.md, Devices"),
    ("hooks", "hooks:apply_runtime_hooks", "", CHILD, PRESENT, CREATE, "config.md, POSIX-platform Hooks"),
    ("hooks", "rootfs:apply_hooks_sync", "", CHILD, ALWAYS, CREATE, "config.md, POSIX-platform Hooks"),
    ("hooks.createContainer", "hooks:apply_create_container_hooks", "", CHILD, PRESENT, CREATE, "config.md, CreateContainer Hooks"),
    ("root", "rootfs:apply_pivot", "", CHILD, ALWAYS, CREATE, "config.md, Root"),
    # ... and now its own
    ("process.terminal", "terminal:apply_console", "process:observe_terminal", CHILD, ALWAYS, BOTH, "config.md, Process"),
    ("hostname", "namespaces:apply_hostname", "namespaces:observe_hostname", CHILD, PRESENT, CREATE, "config.md, Hostname"),
    ("domainname", "namespaces:apply_domainname", "namespaces:observe_domainname", CHILD, PRESENT, CREATE, "config.md, Domainname"),
    ("linux.sysctl", "namespaces:apply_sysctl", "sysctl:observe", CHILD, PRESENT, CREATE, "config-linux.md, Sysctl"),
    ("mounts", "mounts:finish_mounts", "", CHILD, PRESENT, CREATE, "config.md, Mounts"),
    ("linux.readonlyPaths", "rootfs:apply_readonly_paths", "rootfs:observe_readonly_paths", CHILD, PRESENT, CREATE, "config-linux.md, Readonly Paths"),
    ("linux.maskedPaths", "rootfs:apply_masked_paths", "rootfs:observe_masked_paths", CHILD, PRESENT, CREATE, "config-linux.md, Masked Paths"),
    ("linux.rootfsPropagation", "rootfs:apply_propagation", "rootfs:observe_propagation", CHILD, PRESENT, CREATE, "config-linux.md, Rootfs Mount Propagation"),
    ("process.cwd", "process:apply_cwd_directory", "process:observe_cwd", CHILD, PRESENT, CREATE, "config.md, Process"),
    ("root.readonly", "rootfs:apply_readonly_root", "rootfs:observe_readonly", CHILD, PRESENT, CREATE, "config.md, Root"),
    # PROCESS: what one process is, for create and exec alike
    ("process.user", "process:apply_stdio_owner", "", PROCESS, ALWAYS, BOTH, "config.md, User"),
    ("linux.personality", "process:apply_personality", "process:observe_personality", PROCESS, PRESENT, BOTH, "config-linux.md, Personality"),
    ("process.scheduler", "process:apply_scheduler", "process:observe_scheduler", PROCESS, PRESENT, BOTH, "config.md, Linux Process"),
    ("process.ioPriority", "process:apply_io_priority", "process:observe_io_priority", PROCESS, PRESENT, BOTH, "config.md, Linux Process"),
    ("linux.memoryPolicy", "process:apply_memory_policy", "process:observe_memory_policy", PROCESS, PRESENT, BOTH, "config-linux.md, Memory policy"),
    ("process.apparmorProfile", "lsm:apply_apparmor", "process:observe_apparmor", PROCESS, PRESENT, BOTH, "config.md, Linux Process"),
    ("process.selinuxLabel", "lsm:apply_selinux", "process:observe_selinux", PROCESS, PRESENT, BOTH, "config.md, Linux Process"),
    ("process.noNewPrivileges", "process:apply_no_new_privileges", "process:observe_no_new_privileges", PROCESS, PRESENT, BOTH, "config.md, Linux Process"),
    ("process.env", "process:apply_environment", "", PROCESS, ALWAYS, BOTH, "config.md, Process"),
    ("process.capabilities", "capabilities:apply_bounding", "capabilities:observe", PROCESS, ALWAYS, BOTH, "config.md, Linux Process"),
    ("process.user", "process:apply_user", "process:observe_user", PROCESS, ALWAYS, BOTH, "config.md, User"),
    ("process.cwd", "process:apply_cwd", "", PROCESS, PRESENT, BOTH, "config.md, Process"),
    ("process.capabilities", "capabilities:apply_sets", "", PROCESS, ALWAYS, BOTH, "config.md, Linux Process"),
    ("process.args", "process:apply_executable", "", PROCESS, PRESENT, BOTH, "config.md, Process"),
    ("process.rlimits", "process:apply_rlimits", "process:observe_rlimits", PROCESS, PRESENT, BOTH, "config.md, POSIX process"),
    ("process", "process:apply_ready", "", PROCESS, ALWAYS, BOTH, "runtime.md, Create"),
    # LAST: start
    ("process", "hooks:apply_wait_start", "", LAST, ALWAYS, CREATE, "runtime.md, Start"),
    ("hooks.startContainer", "hooks:apply_start_container_hooks", "", LAST, PRESENT, CREATE, "config.md, StartContainer Hooks"),
    ("process", "process:apply_close_fds", "", LAST, ALWAYS, BOTH, "config.md, Process"),
    ("process", "process:apply_exec_record", "", LAST, ALWAYS, BOTH, "runtime.md, Start"),
    ("linux.seccomp", "seccomp:apply", "seccomp:observe", LAST, PRESENT, BOTH, "config-linux.md, Seccomp"),
    ("process.args", "process:apply_exec", "", LAST, PRESENT, BOTH, "config.md, Process"),
)
# fmt: on


# Fields that are applied along with another row's field, or by the lifecycle.
ALONG_WITH = {
    "ociVersion": "spec.check",
    "annotations": "container: the state document, hooks and the systemd manager get them",
    "process.consoleSize": "process.terminal",
    "process.execCPUAffinity": "build: only exec has it",
    "linux.cgroupsPath": "linux.resources",
    "linux.uidMappings": "linux.namespaces",
    "linux.gidMappings": "linux.namespaces",
    "linux.timeOffsets": "linux.namespaces",
    "hooks.prestart": "hooks",
    "hooks.createRuntime": "hooks",
    "hooks.poststart": "container: after start",
    "hooks.poststop": "container: at delete",
}
# Fields that are refused when they ask for something, and what is missing.
UNSUPPORTED = {
    "linux.netDevices": "moving network devices is not built yet",
    "linux.mountLabel": "SELinux mount labels are not built yet",
    "vm": "ocirt makes containers, not virtual machines",
}
# Fields that mean nothing to this runtime, and why.
IGNORED = {
    "process.commandLine": "Windows only",
    "process.user.username": "Windows only",
    "solaris": "another platform's section",
    "windows": "another platform's section",
    "zos": "another platform's section",
    "freebsd": "another platform's section",
}


def compile_fields(ctx: Context, which: str) -> None:
    """Call the applier of every row that this document and command need, in order."""
    from ocirt.context import lookup

    for field, needs in UNSUPPORTED.items():
        if lookup(ctx.spec, field):
            raise Unsupported(field, needs)
    modules: dict[str, Any] = {}
    for field, applier, _observer, phase, always, commands, _section in ROWS:
        if which not in commands:
            continue
        value = lookup(ctx.spec, field)
        if value is None and not always:
            continue
        name, _, function = applier.partition(":")
        module = modules.get(name)
        if module is None:
            module = modules[name] = load_module(name)
        ctx.plan.phase = phase
        getattr(module, function)(ctx, value)


def load_module(name: str) -> Any:
    """ocirt.NAME, loaded only when a field needs it."""
    return __import__(f"ocirt.{name}", fromlist=("",))

"""The process of the container as /proc has it: ids, limits, directory, labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ocirt.verify import Finding, Target

# type in config.json -> line of /proc/PID/limits
LIMITS = {
    "RLIMIT_CPU": "Max cpu time",
    "RLIMIT_FSIZE": "Max file size",
    "RLIMIT_DATA": "Max data size",
    "RLIMIT_STACK": "Max stack size",
    "RLIMIT_CORE": "Max core file size",
    "RLIMIT_RSS": "Max resident set",
    "RLIMIT_NPROC": "Max processes",
    "RLIMIT_NOFILE": "Max open files",
    "RLIMIT_MEMLOCK": "Max locked memory",
    "RLIMIT_AS": "Max address space",
    "RLIMIT_LOCKS": "Max file locks",
    "RLIMIT_SIGPENDING": "Max pending signals",
    "RLIMIT_MSGQUEUE": "Max msgqueue size",
    "RLIMIT_NICE": "Max nice priority",
    "RLIMIT_RTPRIO": "Max realtime priority",
    "RLIMIT_RTTIME": "Max realtime timeout",
}
UNLIMITED = 2**64 - 1
PERSONAS = {"LINUX": "00000000", "LINUX32": "00000008"}
SCHEDULERS = {0: "SCHED_OTHER", 1: "SCHED_FIFO", 2: "SCHED_RR", 3: "SCHED_BATCH", 5: "SCHED_IDLE"}
IO_CLASSES = {1: "IOPRIO_CLASS_RT", 2: "IOPRIO_CLASS_BE", 3: "IOPRIO_CLASS_IDLE"}
MEMORY_POLICIES = {
    "MPOL_DEFAULT": "default",
    "MPOL_PREFERRED": "prefer",
    "MPOL_BIND": "bind",
    "MPOL_INTERLEAVE": "interleave",
    "MPOL_LOCAL": "local",
    "MPOL_PREFERRED_MANY": "prefer (many)",
    "MPOL_WEIGHTED_INTERLEAVE": "weighted interleave",
}
MEMORY_FLAGS = {"MPOL_F_STATIC_NODES": "static", "MPOL_F_RELATIVE_NODES": "relative"}
SYS_IOPRIO_GET = {"x86_64": 252, "aarch64": 31}


def observe_user(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """Ids as the container sees them: status gives those of the reader's user namespace."""
    user = (spec["process"].get("user")) or {}
    status = target.status()
    found = []
    for name, line, file in (("uid", "Uid", "uid_map"), ("gid", "Gid", "gid_map")):
        ids = {_inside(target.read(file), int(word)) for word in status[line].split()}
        found.append((f"process.user.{name}", str(user.get(name) or 0), " ".join(sorted(map(str, ids)))))
    mapping = target.read("gid_map")
    groups = sorted(_inside(mapping, int(word)) for word in status["Groups"].split())
    asked = sorted(set(user.get("additionalGids") or ()))
    if asked or "deny" not in target.read("setgroups"):
        found.append(
            (
                "process.user.additionalGids",
                " ".join(map(str, asked)) or "none",
                " ".join(map(str, sorted(set(groups)))) or "none",
            )
        )
    if user.get("umask") is not None:
        found.append(("process.user.umask", f"{user['umask'] & 0o777:04o}", status.get("Umask", "unknown")))
    return found


def _inside(mapping: str, outer: int) -> int:
    """Id in the namespace of the map, -1 if it has none there."""
    for line in mapping.splitlines():
        first, outside, count = map(int, line.split())
        if outside <= outer < outside + count:
            return first + outer - outside
    return -1


def observe_no_new_privileges(target: Target, spec: dict[str, Any]) -> list[Finding]:
    words = {"0": "false", "1": "true"}
    asked = str(bool(spec["process"]["noNewPrivileges"])).lower()
    return [("process.noNewPrivileges", asked, words[target.status()["NoNewPrivs"]])]


def observe_rlimits(target: Target, spec: dict[str, Any]) -> list[Finding]:
    lines = target.read("limits").splitlines()
    found = []
    for i, limit in enumerate(spec["process"]["rlimits"]):
        title = LIMITS[limit["type"]]
        line = next((line for line in lines if line.startswith(title)), None)
        words = line[len(title) :].split()[:2] if line else ["unknown", "unknown"]
        asked = ["unlimited" if limit[name] == UNLIMITED else str(limit[name]) for name in ("soft", "hard")]
        field = f"process.rlimits[{i}]"
        found.append((field, f"{limit['type']} {':'.join(asked)}", f"{limit['type']} {':'.join(words)}"))
    return found


def observe_oom_score_adj(target: Target, spec: dict[str, Any]) -> list[Finding]:
    asked = str(spec["process"]["oomScoreAdj"])
    return [("process.oomScoreAdj", asked, target.read("oom_score_adj").strip())]


def observe_cwd(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """Compared as directories: cwd may go through links. The program may have moved on since."""
    cwd = spec["process"]["cwd"]
    root = target.link("root")
    now = target.link("cwd")
    if root != "/" and (now + "/").startswith(root + "/"):
        now = now[len(root) :] or "/"
    try:
        there = os.stat(cwd.lstrip("/") or ".", dir_fd=target.root, follow_symlinks=False)
        here = os.stat("cwd", dir_fd=target.proc)
    except OSError as error:
        return [("process.cwd", cwd, f"{now} ({error.strerror})")]
    same = (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
    return [("process.cwd", cwd, cwd if same else now)]


def observe_apparmor(target: Target, spec: dict[str, Any]) -> list[Finding]:
    asked = spec["process"]["apparmorProfile"] or "unconfined"
    try:
        label = target.read("attr/apparmor/current").strip()
    except OSError:
        label = "unconfined"
    return [("process.apparmorProfile", asked, label.partition(" (")[0] or "unconfined")]


def observe_selinux(target: Target, spec: dict[str, Any]) -> list[Finding]:
    asked = spec["process"]["selinuxLabel"]
    if not asked:
        return []
    try:
        label = target.read("attr/current").strip("\0\n")
    except OSError:
        label = "none"
    return [("process.selinuxLabel", asked, label)]


def observe_personality(target: Target, spec: dict[str, Any]) -> list[Finding]:
    domain = spec["linux"]["personality"]["domain"]
    persona = target.read("personality").strip()
    names = {number: name for name, number in PERSONAS.items()}
    return [("linux.personality.domain", domain, names.get(persona, persona))]


def observe_scheduler(target: Target, spec: dict[str, Any]) -> list[Finding]:
    asked = spec["process"]["scheduler"]
    policy = os.sched_getscheduler(target.pid) & ~os.SCHED_RESET_ON_FORK
    found = [("process.scheduler.policy", asked["policy"], SCHEDULERS.get(policy, str(policy)))]
    if asked.get("nice") is not None and asked["policy"] in ("SCHED_OTHER", "SCHED_BATCH"):
        nice = os.getpriority(os.PRIO_PROCESS, target.pid)
        found.append(("process.scheduler.nice", str(asked["nice"]), str(nice)))
    if asked.get("priority"):
        priority = os.sched_getparam(target.pid).sched_priority
        found.append(("process.scheduler.priority", str(asked["priority"]), str(priority)))
    return found


def observe_io_priority(target: Target, spec: dict[str, Any]) -> list[Finding]:
    import ctypes

    asked = spec["process"]["ioPriority"]
    number = SYS_IOPRIO_GET[os.uname().machine]
    value = ctypes.CDLL(None, use_errno=True).syscall(number, 1, target.pid)
    now = f"{IO_CLASSES.get(value >> 13, 'none')} {value & 7}" if value >= 0 else "unknown"
    return [("process.ioPriority", f"{asked['class']} {asked.get('priority') or 0}", now)]


def observe_memory_policy(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """The policy that the mappings of the process fall back to, as numa_maps words it."""
    asked = spec["linux"]["memoryPolicy"]
    words = [MEMORY_POLICIES[asked["mode"]]]
    words += [MEMORY_FLAGS[name] for name in asked.get("flags") or () if name in MEMORY_FLAGS]
    text = "=".join(words)
    if asked.get("nodes"):
        text += f":{asked['nodes']}"
    try:
        lines = target.read("numa_maps").splitlines()
    except OSError:  # a kernel without NUMA
        lines = []
    stack = next((line for line in lines if " stack" in line), "? unknown")
    return [("linux.memoryPolicy", text, " ".join(stack.split(" ")[1 : 3 if "(many)" in stack else 2]))]


def observe_terminal(target: Target, spec: dict[str, Any]) -> list[Finding]:
    """Field 7 of stat is the controlling terminal's device, 0 for none."""
    fields = target.read("stat").rpartition(")")[2].split()
    asked = str(bool(spec["process"]["terminal"])).lower()
    return [("process.terminal", asked, str(fields[4] != "0").lower())]

#!/usr/bin/env python3
"""Run the validation suite of opencontainers/runtime-tools and compare with what is known of it.

    python conformance/validation.py SUITE [RUNTIME]

SUITE is a checkout of it in which `make runtimetest validation-executables` has been called; RUNTIME
is `ocirt` of PATH if not given. Needs root. Exit status 0: each program of the suite passes, or
differs for a reason that is written down here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SECONDS = 120  # for one program

POINTERS = "compares the address of the limit with that of another number"
PRESTART = (
    "wants prestart hooks at start; create calls them, with the status `creating` (runtime.md, Lifecycle)"
)
PLACE = "a fact of the host: "

DIFFERENCES = {
    "delete": "a created container may be deleted, as with runc: engines do it when a start is called off",
    "delete_resources": POINTERS,
    "hooks": "expects words that its own hooks do not write",
    "hooks_stdin": PRESTART,
    "linux_cgroups_blkio": "leafWeight: Linux has it no more (5.0)",
    "linux_cgroups_hugetlb": PLACE + "looks for hugetlb in v1, which may be in v2",
    "linux_cgroups_memory": "memory.kernel: Linux refuses the limit (5.16); it is left alone",
    "linux_cgroups_network": PLACE + "net_cls, net_prio",
    "linux_cgroups_pids": POINTERS,
    "linux_cgroups_relative_blkio": "leafWeight: Linux has it no more (5.0)",
    "linux_cgroups_relative_hugetlb": PLACE + "looks for hugetlb in v1, which may be in v2",
    "linux_cgroups_relative_memory": "memory.kernel: Linux refuses the limit (5.16); it is left alone",
    "linux_cgroups_relative_network": PLACE + "net_cls, net_prio",
    "linux_cgroups_relative_pids": POINTERS,
    "linux_mount_label": "SELinux is not built",
    "linux_ns_itype": "mounts without a mount namespace are refused: runc leaves them on the host",
    "linux_process_apparmor_profile": PLACE + "AppArmor",
    "misc_props": "starts a program that is not in its bundle",
    "pidfile": "kills a program that has ended",
    "poststart_fail": "a poststart hook that fails ends the container, as with runc (runtime.md, Lifecycle)",
    "prestart": PRESTART,
    "process_capabilities": PLACE + "root may lack capabilities",
    "process_capabilities_fail": "a capability that is not known is a warning (config.md, Linux Process)",
    "process_rlimits": "Go raises RLIMIT_NOFILE of the program that looks",
    "start": "wants a container without a process, which `create` refuses, as runc's does",
}


def complaint(program: Path, suite: Path, runtime: str) -> str:
    """What the program says against the runtime; empty if nothing."""
    environment = {**os.environ, "RUNTIME": runtime}
    try:
        done = subprocess.run(
            [program], cwd=suite, env=environment, capture_output=True, timeout=SECONDS, text=True
        )
    except subprocess.TimeoutExpired:
        return f"no end after {SECONDS} s"
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith("not ok"):
            return line
    if "1..0" in lines:  # it has only one thing to say, and no number for it
        for line in lines:
            if '"error":' in line:
                return line.strip()
    last = done.stderr.strip().splitlines()[-2:]
    return f"status {done.returncode}: {'; '.join(last)}" if done.returncode else ""


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    suite = Path(sys.argv[1]).resolve()
    runtime = shutil.which(sys.argv[2] if len(sys.argv) > 2 else "ocirt")
    programs = sorted(suite.glob("validation/*/*.t"))
    if not programs or not runtime:
        print(f"{suite}: no programs that are built" if runtime else "no such runtime", file=sys.stderr)
        return 2
    passed, unknown = 0, 0
    for program in programs:
        said = complaint(program, suite, os.path.abspath(runtime))
        reason = DIFFERENCES.get(program.stem)
        if not said:
            passed += 1
        elif reason:
            print(f"differs  {program.stem}: {reason}")
        else:
            unknown += 1
            print(f"FAILED   {program.stem}: {said}")
    print(
        f"{len(programs)} programs: {passed} pass, {len(programs) - passed - unknown} differ, {unknown} fail"
    )
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())

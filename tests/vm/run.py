#!/usr/bin/python3
"""Run guest_cases.py in the virtual machine: with the ocirt of a virtual environment, or with the
guest's runc or crun.

    run.py [--runtime ocirt|runc|crun] [--layout v2|hybrid|v1] [NAME...]
    run.py --times                          how long `run` takes, next to runc and crun

The image is made when it is missing. Prints what the guest prints; exits with its status.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
VM = HERE / "vm"
GUEST_PREFIX = Path("/opt/ocirt/env")  # every user may read it, wherever the host keeps it
GUEST_CASES = Path("/opt/ocirt/cases")
LIMIT = 900  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runtime", default="ocirt", choices=("ocirt", "runc", "crun"))
    parser.add_argument("--layout", default="v2", choices=("v2", "hybrid", "v1"))
    parser.add_argument("--times", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME")
    words = parser.parse_args()
    build()
    if words.times:
        *start, _cases, path, _layout = command("ocirt", words.layout)
        return subprocess.run([*start, str(GUEST_CASES / "guest_times.py"), path]).returncode
    return subprocess.run(command(words.runtime, words.layout, words.names)).returncode


def build() -> None:
    """Make the image, if it is missing or older than its recipe."""
    done = subprocess.run([VM, "build"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        sys.exit(done.stdout)


def command(runtime: str, layout: str, names: list[str] | tuple[str, ...] = ()) -> list[str]:
    """The words that run the cases."""
    mounts = [f"{HERE}:{GUEST_CASES}:ro"]
    if runtime == "ocirt":
        path = str(GUEST_PREFIX / "bin/ocirt")
        mounts += [f"{host}:{guest}:ro" for host, guest in installed()]
    else:
        path = f"/usr/bin/{runtime}"
    options = [word for mount in mounts for word in ("--mount", mount)]
    start = [str(VM), "run", "--cgroup", layout, "--timeout", str(LIMIT), *options, "--"]
    return [*start, "/usr/bin/python3", str(GUEST_CASES / "guest_cases.py"), path, layout, *names]


def installed() -> list[tuple[Path, Path]]:
    """(directory here, directory in the guest) of what ocirt needs.

    The prefix of $OCIRT or of this Python; in a development install the package there is a link
    to the source tree, which has to point to the same in the guest.
    """
    ocirt = Path(os.environ.get("OCIRT") or Path(sys.executable).with_name("ocirt"))
    if not ocirt.is_file():
        ocirt = HERE.parents[1] / ".venv/bin/ocirt"
    prefix = ocirt.resolve().parents[1]
    found = [(prefix, GUEST_PREFIX)]
    for link in prefix.glob("lib*/python3*/*-packages/ocirt"):
        if link.is_symlink():
            place = GUEST_PREFIX / link.parent.relative_to(prefix) / os.readlink(link)
            found.append((link.resolve(), Path(os.path.normpath(place))))
    return found


if __name__ == "__main__":
    sys.exit(main())

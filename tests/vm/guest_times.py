#!/usr/bin/python3
"""How long `run true` takes with ocirt and the guest's runc and crun, with systemd and without.

    guest_times.py OCIRT [ROUNDS]

All is emulated where there is no KVM: Python about ten times slower than on the host. Only the
relations count.
"""

import os
import statistics
import subprocess
import sys
import time

import guest_cases as cases


def once(runtime, driver):
    """Milliseconds for one run."""
    place = cases.where(driver)
    name, directory = runtime.bundle(cases.config("true"), place["path"])
    words = runtime.words("run", "--bundle", directory, name, systemd=driver == "systemd")
    started = time.perf_counter()
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - started) * 1000


def main(path, rounds):
    cases.make_rootfs()
    os.chmod(cases.WORK, 0o755)
    numbers = iter(range(1, 10**6))
    runtimes = [cases.Runtime(each) for each in (path, "/usr/bin/runc", "/usr/bin/crun")]
    for runtime in runtimes:
        runtime.numbers = numbers
    for driver in ("systemd", "cgroupfs"):
        taken = {runtime.name: [] for runtime in runtimes}
        for counted in range(rounds + 1):
            for runtime in runtimes:
                milliseconds = once(runtime, driver)
                if counted:  # the first finds everything cold
                    taken[runtime.name].append(milliseconds)
        medians = {name: statistics.median(values) for name, values in taken.items()}
        shown = "  ".join(f"{name} {value:.0f} ms" for name, value in medians.items())
        own = medians["ocirt"]
        print(
            f"{driver:9} {shown}  {own / medians['runc']:.2f} x runc  {own / medians['crun']:.2f} x crun",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 20))

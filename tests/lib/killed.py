"""Run one ocirt command and kill it by SIGKILL at its K-th step: killed.py K FILE WORD...

A step is a call that changes something, or a word from the init. FILE gets a line for each that
was begun; K = 0 runs to the end, to learn how many there are.
"""

from __future__ import annotations

import os
import posix
import signal
import sys
from collections.abc import Callable
from typing import Any

CHANGING = ("mkdir", "rmdir", "unlink", "rename", "write", "open", "kill", "posix_spawn")
IN_KERNEL = ("spawn", "pidfd_send_signal", "unix_listen", "prlimit", "memfd_create", "waitid_pidfd")


class Steps:
    def __init__(self, last: int, log: int) -> None:
        self.last = last
        self.log = log
        self.count = 0

    def step(self, name: str) -> None:
        self.count += 1
        os_write(self.log, f"{name}\n".encode())
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(self, owner: Any, name: str, label: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def stepped(*words: Any, **options: Any) -> Any:
            if name != "open" or words[1] & posix.O_CREAT:
                self.step(label)
            return call(*words, **options)

        setattr(owner, name, stepped)


os_write = os.write


def main(last: str, log: str, *words: str) -> int:
    from ocirt import kernel
    from ocirt.cli import main as ocirt_main
    from ocirt.launch import Launch

    steps = Steps(int(last), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC))
    for name in CHANGING:
        steps.wrap(posix, name, name)
    for name in IN_KERNEL:
        steps.wrap(kernel, name, name)
    for name in ("_hand_over", "_receive", "_go_on", "run_to_ready", "run_to_exec", "await_exec", "close"):
        steps.wrap(Launch, name, name.lstrip("_"))
    status = ocirt_main(list(words))
    steps.step("end")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

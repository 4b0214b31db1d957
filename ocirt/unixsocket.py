"""Connect to a unix socket that an option names."""

from __future__ import annotations

import posix

from ocirt import kernel
from ocirt.errors import StepError

SUN_PATH = 107  # bytes of a path in struct sockaddr_un


def connect(path: str, option: str) -> int:
    """Stream socket connected to path, also to one too long for sun_path; the caller closes it.

    Raises StepError that names the option.
    """
    link = -1
    try:
        if len(kernel.fsencode(path)) <= SUN_PATH:
            return kernel.unix_connect(path)
        link = posix.open(path, posix.O_PATH | posix.O_CLOEXEC)
        return kernel.unix_connect(f"/proc/self/fd/{link}")
    except OSError as error:
        raise StepError(error.errno or 0, "connect", option, path) from None
    finally:
        if link >= 0:
            posix.close(link)

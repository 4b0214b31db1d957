"""mounts[].options: which words are flags of the mount, of its propagation, or data."""

from __future__ import annotations

from ocirt import kernel
from ocirt.errors import SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# word -> (attribute, is it set?)   mount_setattr(2)
ATTRIBUTES = {
    "ro": ("MOUNT_ATTR_RDONLY", True),
    "rw": ("MOUNT_ATTR_RDONLY", False),
    "nosuid": ("MOUNT_ATTR_NOSUID", True),
    "suid": ("MOUNT_ATTR_NOSUID", False),
    "nodev": ("MOUNT_ATTR_NODEV", True),
    "dev": ("MOUNT_ATTR_NODEV", False),
    "noexec": ("MOUNT_ATTR_NOEXEC", True),
    "exec": ("MOUNT_ATTR_NOEXEC", False),
    "nodiratime": ("MOUNT_ATTR_NODIRATIME", True),
    "diratime": ("MOUNT_ATTR_NODIRATIME", False),
    "nosymfollow": ("MOUNT_ATTR_NOSYMFOLLOW", True),
    "symfollow": ("MOUNT_ATTR_NOSYMFOLLOW", False),
}
# The four settings of access times exclude each other; clearing one means relatime again.
ATIME = {
    "relatime": "MOUNT_ATTR_RELATIME",
    "norelatime": "MOUNT_ATTR_RELATIME",
    "noatime": "MOUNT_ATTR_NOATIME",
    "atime": "MOUNT_ATTR_RELATIME",
    "strictatime": "MOUNT_ATTR_STRICTATIME",
    "nostrictatime": "MOUNT_ATTR_RELATIME",
}
PROPAGATION = {
    "private": "MS_PRIVATE",
    "shared": "MS_SHARED",
    "slave": "MS_SLAVE",
    "unbindable": "MS_UNBINDABLE",
}
# Flags of the superblock: fsconfig takes them as words of their own.
SUPERBLOCK = ("sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand")
# Words without any effect on a modern kernel or for us.
IGNORED = ("defaults", "silent", "loud", "iversion", "noiversion", "acl", "noacl")


# Words that mount(8) keeps to itself; x-NAME, X-NAME and comment=TEXT are others.
OF_MOUNT_8 = ("auto", "noauto", "nofail", "_netdev", "nouser", "nousers", "nogroup", "noowner")


class MountOptions:
    """The words of one mount, sorted out.

    attr_set/attr_clear act on the top mount, rec_set/rec_clear on the whole tree ("rro", ...).
    data is what the file system itself gets.
    """

    __slots__ = (
        "attr_clear",
        "attr_set",
        "bind",
        "copy_up",
        "data",
        "propagation",
        "propagation_recursive",
        "read_only",
        "rec_clear",
        "rec_set",
        "recursive",
        "remount",
    )

    def __init__(self) -> None:
        self.attr_set = self.attr_clear = self.rec_set = self.rec_clear = 0
        self.propagation = 0
        self.propagation_recursive = False
        self.bind = self.recursive = self.remount = self.copy_up = self.read_only = False
        self.data: list[str] = []


def parse(words: Iterable[str], field: str) -> MountOptions:
    """Sort out the options of one mount (config.md, Linux mount options).

    Raises SpecError for what is known but cannot be, naming field.
    """
    options = MountOptions()
    for word in words:
        if word in ATTRIBUTES:
            name, on = ATTRIBUTES[word]
            _set(options, getattr(kernel, name), on, recursive=False)
            if name == "MOUNT_ATTR_RDONLY":
                options.read_only = on
        elif word in ATIME:
            options.attr_clear |= kernel.MOUNT_ATTR__ATIME
            options.attr_set = options.attr_set & ~kernel.MOUNT_ATTR__ATIME | getattr(kernel, ATIME[word])
        elif word in ("bind", "rbind"):
            options.bind = True
            options.recursive = options.recursive or word == "rbind"
        elif word == "remount":
            options.remount = True
        elif word == "tmpcopyup":
            options.copy_up = True
        elif word in PROPAGATION or (word[:1] == "r" and word[1:] in PROPAGATION):
            options.propagation_recursive = word not in PROPAGATION
            options.propagation = getattr(kernel, PROPAGATION[word if word in PROPAGATION else word[1:]])
        elif word[:1] == "r" and word[1:] in ATTRIBUTES:
            name, on = ATTRIBUTES[word[1:]]
            _set(options, getattr(kernel, name), on, recursive=True)
        elif word[:1] == "r" and word[1:] in ATIME:
            options.rec_clear |= kernel.MOUNT_ATTR__ATIME
            options.rec_set = options.rec_set & ~kernel.MOUNT_ATTR__ATIME | getattr(kernel, ATIME[word[1:]])
        elif word in ("idmap", "ridmap"):
            from ocirt.errors import Unsupported

            raise Unsupported(f"{field}.options", f"{word}: id-mapped mounts")
        elif word == "" or word in IGNORED or word in OF_MOUNT_8 or word.startswith(("x-", "X-", "comment=")):
            continue
        else:
            if "\0" in word:
                raise SpecError(f"{field}.options", f"{word!r} contains a NUL character")
            options.data.append(word)
    return options


def _set(options: MountOptions, flag: int, on: bool, *, recursive: bool) -> None:
    """A later word overrides an earlier one: ro, rw leaves rw."""
    if recursive:
        options.rec_set, options.rec_clear = _changed(options.rec_set, options.rec_clear, flag, on)
    else:
        options.attr_set, options.attr_clear = _changed(options.attr_set, options.attr_clear, flag, on)


def _changed(attr_set: int, attr_clear: int, flag: int, on: bool) -> tuple[int, int]:
    if on:
        return attr_set | flag, attr_clear & ~flag
    return attr_set & ~flag, attr_clear | flag

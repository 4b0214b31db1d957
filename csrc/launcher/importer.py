"""Import for the launcher: archive, builtin and named extension modules; the rest when asked for.

Runs before anything of importlib's path machinery exists. embed.c puts these names in: executable,
late_init (completes the interpreter's start, or None), init_signals (prepares for _signal),
index (name: offset, size, is package), modules (the archive), site, prefix, dynload, suffix,
system_sites (joined by ":").
"""

# mypy: ignore-errors
# ruff: noqa: F821

import _imp
import gc
import sys
from _frozen_importlib import BuiltinImporter, ModuleSpec
from marshal import loads
from posix import access, close, read
from posix import open as open_fd


class CodeLoader:
    """Modules of the archive."""

    @staticmethod
    def create_module(spec):
        return None

    @staticmethod
    def exec_module(module):
        spec = module.__spec__
        offset, size, _ = spec.loader_state
        module.__file__ = spec.origin
        exec(loads(modules[offset : offset + size]), module.__dict__)


class ExtensionLoader:
    """Extension modules at a known path."""

    @staticmethod
    def create_module(spec):
        return _imp.create_dynamic(spec)

    @staticmethod
    def exec_module(module):
        _imp.exec_dynamic(module)


class Finder:
    """First on sys.meta_path."""

    complete = late_init is None
    preloading = False

    @staticmethod
    def find_spec(name, path=None, target=None):
        entry = index.get(name)
        if entry is not None:
            spec = ModuleSpec(name, CodeLoader, loader_state=entry, is_package=entry[2])
            stem = site + "/" + name.replace(".", "/")
            if entry[2]:
                spec.submodule_search_locations.append(stem)
                stem += "/__init__"
            spec.origin = stem + ".py"
            return spec
        if Finder.complete and name != "ocirt._shim":
            return None
        if _imp.is_builtin(name):
            if name == "_signal" and not init_signals():
                finish()
            return ModuleSpec(name, BuiltinImporter, origin="built-in")
        if Finder.preloading:
            raise ImportError(f"{name} cannot be part of the snapshot")
        origin = extension(name)
        if origin:
            return ModuleSpec(name, ExtensionLoader, origin=origin)
        finish()  # appends the path finder to the list that is being walked
        return None


def extension(name):
    """Path of an extension module that is wanted early, or None."""
    if name.startswith("ocirt."):
        found = site + "/" + name.replace(".", "/") + suffix
        return found if access(found, 0) else None
    if name == "_cffi_backend":
        for directory in site_directories():
            found = directory + "/" + name + suffix
            if access(found, 0):
                return found
    elif name[0] == "_" or name in ("fcntl", "select"):  # builtin in Debian's Python
        found = dynload + "/" + name + suffix
        if access(found, 0):
            return found
    return None


def site_directories():
    """Where distributions are: beside ocirt, then where the system's Python keeps its own."""
    yield site
    try:
        fd = open_fd(prefix + "/pyvenv.cfg", 0x80000)
    except OSError:
        shared = True
    else:
        text = read(fd, 65536).decode("utf-8", "replace").lower().replace(" ", "")
        close(fd)
        shared = "include-system-site-packages=true" in text
    if shared:
        yield from system_sites.split(":")


def preload():
    """Import all modules that need nothing but builtin ones: what the snapshot begins with."""
    Finder.preloading = True
    for name in index:
        if name.endswith(".__main__"):
            continue
        try:
            __import__(name)
        except ImportError:
            pass  # cold: it is loaded when it is needed
    from ocirt.warmup import warm_up

    warm_up()
    Finder.preloading = False
    # Only these are asked for again: an object that is touched is a page that is copied.
    for name, module in sys.modules.items():
        if name in index and index[name][2]:
            packages.append((name, module.__path__))
    gc.collect()
    gc.freeze()  # a later collection has nothing to look for among them


def move():
    """The snapshot was made elsewhere: packages are where the installation is."""
    for name, path in packages:
        path[:] = [site + "/" + name.replace(".", "/")]


def finish():
    """Complete the start of the interpreter: encodings, sys.stdout, the path finder."""
    Finder.complete = True
    argv = sys.argv
    late_init()
    sys.argv = argv
    if "time" in sys.modules:
        sys.modules["time"].tzset()  # the snapshot's time zone is the build's
    sys.executable = sys._base_executable = executable
    extend_path()


def extend_path():
    for directory in site_directories():
        if directory not in sys.path:
            sys.path.append(directory)


packages = []  # of the snapshot: (name, __path__)

gc.set_threshold(20000)  # loading modules makes many objects and no garbage: 0.2 ms
sys.meta_path.insert(0, Finder)
if late_init is None:
    extend_path()

"""Lists the files of the Python package for meson.build, one per line."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MADE = {"_compiled.py", "_commit.py"}  # the build makes and installs them


def main() -> None:
    package = ROOT / "ocirt"
    for path in sorted(package.rglob("*")):
        if path.suffix in {".py", ".pyi"} and path.name not in MADE:
            print(path.relative_to(ROOT))
    if (package / "py.typed").exists():
        print("ocirt/py.typed")


if __name__ == "__main__":
    main()

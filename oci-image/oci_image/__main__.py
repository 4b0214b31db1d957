"""python -m oci_image: the command."""

from __future__ import annotations

from oci_image.cli import command

if __name__ == "__main__":
    command()

"""What can go wrong with an image: one exception whose text is the one line the user reads."""

from __future__ import annotations

from ocirt.errors import OcirtError

LONGEST = 2000  # characters of an error; a name in an archive may have a million


class ImageError(OcirtError):
    """An image, or a file that should hold one, is not what it must be.

    where names the file, the blob or the field ("index.json: manifests[2].size"), section the part
    of image-spec that decides, if one does. What came from outside is shown printable.
    """

    def __init__(self, where: str, reason: str, section: str = "") -> None:
        super().__init__(where, reason, section)
        self.where = where
        self.reason = reason
        self.section = section

    def __str__(self) -> str:
        text = printable(f"{self.where}: {self.reason}" if self.where else self.reason)
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
        return f"{text} ({self.section})" if self.section else text


class NotInStore(ImageError):
    """No image has this name, or no blob this digest."""


class TooLarge(ImageError):
    """A limit against decompression bombs and their kin was reached."""


def printable(text: str) -> str:
    """On one line and without escape sequences, whatever an image's author put in."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)

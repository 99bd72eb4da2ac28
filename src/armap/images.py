"""Pictures of observations, kept by content: an equal picture is stored once."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

from armap.errors import DataError
from armap.types import ImageRef

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG", "WEBP")
_DAMAGED = (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow raises about files that are damaged in one way or another."""


class LargeImageError(ValueError):
    """A picture has more pixels than are taken."""


def as_png(file: bytes, *, limit_px: int) -> bytes:
    """Return a picture's file as a PNG file; one that is so already stays as it is. It needs Pillow.

    Args:
        file: the bytes of a PNG, JPEG or WebP file.
        limit_px: most pixels, its width times its height.

    Raises:
        LargeImageError: it has more.
        ValueError: it is damaged, or of another format.
    """
    from PIL import Image

    too_large = f"has more than {limit_px:,} pixels"
    try:
        # Its size is known before any pixel is unpacked.
        with Image.open(io.BytesIO(file), formats=_FORMATS) as image:
            if image.width * image.height > limit_px:
                raise LargeImageError(too_large)
            image.load()
            if image.format == "PNG":
                return file
            png = io.BytesIO()
            image.convert("RGB").save(png, "PNG")
            return png.getvalue()
    except LargeImageError:
        raise
    except Image.DecompressionBombError:
        raise LargeImageError(too_large) from None
    except _DAMAGED:
        raise ValueError("is not a sound PNG, JPEG or WebP file") from None


class ImageFolder:
    """A folder of PNG files named by the hash of what is in them.

    Several processes may add to one folder at once.

    Args:
        path: the folder; it is made when the first picture comes.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, png: bytes) -> ImageRef:
        """Keep a picture.

        Raises:
            ValueError: `png` is no PNG file.
        """
        if png[:8] != _SIGNATURE or png[12:16] != b"IHDR" or len(png) < 24:
            raise ValueError("a picture must be the bytes of a PNG file")
        name = hashlib.sha256(png).hexdigest()
        file = self._file(name)
        # A crash of the machine may leave a part of one.
        if not file.exists() or file.stat().st_size != len(png):
            file.parent.mkdir(parents=True, exist_ok=True)
            # Under its own name only once it is whole, so that a kill leaves no torn picture.
            part = file.with_suffix(f".{os.getpid()}.part")
            try:
                part.write_bytes(png)
                part.replace(file)
            finally:
                part.unlink(missing_ok=True)
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        return ImageRef(sha256=name, width_px=width, height_px=height)

    def read(self, image: ImageRef) -> bytes:
        """Return a picture as the bytes of a PNG file.

        Raises:
            DataError: it is not here, or is not what its name says.
        """
        file = self._file(image.sha256)
        try:
            png = file.read_bytes()
        except OSError as error:
            raise DataError(f"{file}: the picture is missing; copy the images folder along with the run.") from error
        if hashlib.sha256(png).hexdigest() != image.sha256:
            raise DataError(f"{file}: the picture is not what its name says; copy it again from where it was made.")
        return png

    def discard(self, image: ImageRef) -> None:
        """Remove a picture, if it is here."""
        self._file(image.sha256).unlink(missing_ok=True)

    def _file(self, sha256: str) -> Path:
        return self.path / sha256[:2] / f"{sha256}.png"

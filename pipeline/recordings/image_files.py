"""Still images in a folder or a zip file, read one at a time without unpacking."""

from __future__ import annotations

import io
import posixpath
import re
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from pipeline.errors import RecordingError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Endings, in small letters, of the files that count as images."""

ORDERS = ("name", "number")
"""How image files are sorted: as text, or by the numbers in their names."""

# Others, such as EPS, can start programs or hold more than one image, whatever their file is called.
_CODECS = ("PNG", "JPEG", "TIFF", "BMP")

_LAYOUTS = {
    "1": (1, "uint8"),
    "L": (1, "uint8"),
    "I;16": (1, "uint16"),
    "I": (1, "int32"),
    "F": (1, "float32"),
    "P": (3, "uint8"),
    "RGB": (3, "uint8"),
}
"""Channels and dtype that each of Pillow's modes is read as. Transparency leaves open what was seen: it is refused."""


@dataclass(frozen=True)
class ImageLayout:
    """What an image file's header tells.

    Attributes
    ----------
    shape : tuple
        (channel, time = 1, height, width).
    dtype : str
    """

    shape: tuple[int, int, int, int]
    dtype: str

    def __str__(self) -> str:
        channels, _, height, width = self.shape
        return f"{channels} channel{'s' * (channels > 1)} of {height} x {width} pixels, {self.dtype}"


class ImageFiles:
    """The image files in a folder or a ``.zip``, with those in folders below; hidden files and others are ignored.

    Parameters
    ----------
    path : str
        Folder or zip file.
    suffix : str
        One of `SUFFIXES`, to take only the files that end so; empty for all.
    order : str
        One of `ORDERS`. Empty: as text, which is refused where sorting by number would differ, because
        ``image10`` comes before ``image2`` then.

    Attributes
    ----------
    path : Path
        Absolute.
    names : tuple of str
        Sorted, relative to the deepest folder that holds all of them.

    Raises
    ------
    RecordingError
        If there is no such folder or zip file, it holds no images, or their order is in doubt.
    """

    def __init__(self, path: str, suffix: str = "", order: str = "") -> None:
        self.path = Path(path).expanduser().absolute()
        if suffix and suffix.lower() not in SUFFIXES:
            raise RecordingError(f"suffix {suffix!r} must be one of {', '.join(SUFFIXES)}")
        if order and order not in ORDERS:
            raise RecordingError(f"order {order!r} must be one of {', '.join(ORDERS)}")
        wanted = (suffix.lower(),) if suffix else SUFFIXES
        found = [name for name in self._listed() if name.lower().endswith(wanted) and not _hidden(name)]
        if not found:
            raise RecordingError(f"{self.path} holds no image files ({', '.join(wanted)})")
        shared = posixpath.commonpath([PurePosixPath(name).parent for name in found])
        self._members = {PurePosixPath(name).relative_to(shared or ".").as_posix(): name for name in found}
        self.names = self._sorted(order)

    def layout(self, name: str) -> ImageLayout:
        """Return what the header of one image says; its pixels are not decoded.

        Raises
        ------
        RecordingError
            If the file is no image, holds several, or has transparency or colours other than red, green and blue.
        """
        with self._opened(name) as image:
            return self._layout(name, image)

    def read(self, name: str) -> np.ndarray:
        """Return the pixels of one image, (channel, time = 1, height, width).

        Raises
        ------
        RecordingError
            If the file is damaged.
        """
        with self._opened(name) as image:
            layout = self._layout(name, image)
            try:
                if image.mode in ("1", "P"):
                    image = image.convert("L" if image.mode == "1" else "RGB")
                pixels = np.asarray(image, layout.dtype)
            except (OSError, ValueError, SyntaxError) as error:
                raise RecordingError(f"{self.place(name)} is damaged ({error}): copy or write it again") from error
        return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)[:, None])

    def place(self, name: str) -> str:
        """Return where an image lies, for errors."""
        return f"{self.path}/{self._members[name]}"

    @cached_property
    def _archive(self) -> zipfile.ZipFile | None:
        if self.path.is_dir():
            return None
        if not self.path.is_file():
            raise RecordingError(f"{self.path}: no such folder or zip file of images")
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, OSError) as error:
            raise RecordingError(f"{self.path} is no zip file ({error}): give a folder or a .zip of images") from error

    def _listed(self) -> list[str]:
        if self._archive is None:
            return [file.relative_to(self.path).as_posix() for file in self.path.rglob("*") if file.is_file()]
        names = [item.filename for item in self._archive.infolist() if not item.is_dir()]
        leaving = [name for name in names if name.startswith("/") or ".." in PurePosixPath(name).parts]
        if leaving:
            raise RecordingError(f"{self.path}: the member {leaving[0]!r} leaves the archive's folder; zip it anew")
        return names

    def _layout(self, name: str, image: Image.Image) -> ImageLayout:
        pages = getattr(image, "n_frames", 1)
        if pages != 1:
            raise RecordingError(f"{self.place(name)} holds {pages} images: save each in a file of its own")
        if image.mode not in _LAYOUTS:
            raise RecordingError(
                f"{self.place(name)} has the colour mode {image.mode}: save it in grey or RGB, as it was shown"
            )
        channels, dtype = _LAYOUTS[image.mode]
        return ImageLayout((channels, 1, image.height, image.width), dtype)

    def _opened(self, name: str) -> Image.Image:
        member = self._members[name]
        try:
            file = self.path / member if self._archive is None else io.BytesIO(self._archive.read(member))
            return Image.open(file, formats=_CODECS)
        except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, Image.DecompressionBombError) as error:
            raise RecordingError(f"{self.place(name)} cannot be read as an image: {error}") from error

    def _sorted(self, order: str) -> tuple[str, ...]:
        by_name, by_number = sorted(self._members), sorted(self._members, key=_number_key)
        if not order and by_name != by_number:
            at = next(i for i, pair in enumerate(zip(by_name, by_number, strict=True)) if pair[0] != pair[1])
            raise RecordingError(
                f"{self.path}: image {at} is {by_name[at]} in order of name, but {by_number[at]} in order of number; "
                "say with order=name or order=number which order the responses have"
            )
        return tuple(by_number if order == "number" else by_name)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _number_key(name: str) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", name)
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], name

"""Data sets as splits, and splits as labels and network inputs, wherever they lie."""

import functools
import io
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from pruneboard.benchmark.data._digests import remembered
from pruneboard.benchmark.errors import AssetError, UnknownNameError
from pruneboard.benchmark.schema import digest

Labels = npt.NDArray[np.int64]
Picture = bytes | Image.Image

_MODES = {1: "L", 3: "RGB"}
_CPU = torch.device("cpu")

_KINDS_OF_16_BITS = ("PNG", "PPM")
"""Formats that Pillow reads with 32 bits per pixel where they hold 16."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each orientation of EXIF."""


@dataclass(frozen=True)
class Framing:
    """How an image is brought to another size.

    Attributes:
        crop: None squashes the whole image; a fraction in (0, 1] scales it so that its shorter side is the wanted one
            divided by this, rounded down, and cuts out the middle, as networks for ImageNet are usually evaluated.
        interpolation: how pixels in between are found.
    """

    crop: float | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


WHOLE = Framing()
"""The whole image, squashed."""


class Split(ABC):
    """Labels and inputs of one part of a data set.

    Args:
        name: data set and split, for messages.
        labels: class of each input, (n,).

    Attributes:
        labels: class of each input, int64 (n,).
    """

    def __init__(self, name: str, labels: Labels) -> None:
        self.labels = labels
        self._name = name

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def stored(
        self,
        indices: npt.ArrayLike | None = None,
        *,
        size: tuple[int, int, int],
        framing: Framing = WHOLE,
        device: torch.device = _CPU,
    ) -> Tensor:
        """Return inputs in the smallest form that loses nothing, which `scaled` turns into what networks take.

        Args:
            indices: rows (k,) in the order wanted; None takes all.
            size: (channels, height, width) of the answer.
            framing: how images of another height or width are brought to that size.
            device: where the answer is wanted.

        Returns:
            Pixels, uint8, or the coordinates of points, float32 (k, channels, height, width).

        Raises:
            AssetError: a row does not exist or cannot be decoded, or the inputs cannot have that size.
        """

    def inputs(
        self, indices: npt.ArrayLike | None = None, *, size: tuple[int, int, int], device: torch.device = _CPU
    ) -> Tensor:
        """Return what networks take, before their own normalisation: `scaled` of what is `stored`, float32."""
        return scaled(self.stored(indices, size=size, device=device))

    def _rows(self, indices: npt.ArrayLike | None) -> npt.NDArray[np.intp]:
        rows = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.intp)
        if rows.ndim != 1 or ((rows < 0) | (rows >= len(self))).any():
            raise AssetError(
                f"rows of {self._name} must be a list of numbers in [0, {len(self)}), got {rows.tolist()}."
            )
        return rows


class ImageSplit(Split):
    """A split of images, which are decoded when they are asked for.

    Args:
        name: data set and split, for messages.
        labels: class of each image, (n,).
        read: yields, for rows (k,), each position in them with the encoded or decoded image and what messages call it;
            in any order.
    """

    def __init__(
        self, name: str, labels: Labels, read: Callable[[npt.NDArray[np.intp]], Iterator[tuple[int, Picture, str]]]
    ) -> None:
        super().__init__(name, labels)
        self._read = read

    def stored(
        self,
        indices: npt.ArrayLike | None = None,
        *,
        size: tuple[int, int, int],
        framing: Framing = WHOLE,
        device: torch.device = _CPU,
    ) -> Tensor:
        """Return pixels, uint8; an image of another height or width is resized as `images` does it."""
        return self.images(indices, size=size, framing=framing).to(device)

    def images(
        self, indices: npt.ArrayLike | None = None, *, size: tuple[int, int, int], framing: Framing = WHOLE
    ) -> Tensor:
        """Decode images.

        Args:
            indices: rows (k,) in the order wanted; None takes all.
            size: (channels, height, width).
            framing: how an image of another height or width is brought to that size.

        Returns:
            Pixels, uint8 (k, channels, height, width).

        Raises:
            AssetError: a row does not exist or cannot be decoded, or `size` is no size of an image.
        """
        if size[0] not in _MODES or min(size) < 1:
            raise AssetError(f"`size` must be (1 or 3 channels, height, width), got {size}.")
        rows = self._rows(indices)
        pixels = np.empty((len(rows), *size), dtype=np.uint8)
        for position, picture, where in self._read(rows):
            pixels[position] = _decode(picture, size, framing, where)
        return torch.from_numpy(pixels)


class PointSplit(Split):
    """A split of points in the plane, which networks take as images of one pixel with two channels.

    Args:
        name: data set and split, for messages.
        labels: class of each point, (n,).
        points: coordinates, float32 (n, 2).
    """

    def __init__(self, name: str, labels: Labels, points: npt.NDArray[np.float32]) -> None:
        super().__init__(name, labels)
        self._points = points

    def stored(
        self,
        indices: npt.ArrayLike | None = None,
        *,
        size: tuple[int, int, int],
        framing: Framing = WHOLE,
        device: torch.device = _CPU,
    ) -> Tensor:
        """Return coordinates, float32 (k, 2, 1, 1)."""
        if size != (2, 1, 1):
            raise AssetError(
                f"{self._name} holds points, so the `input_size` of a network must be (2, 1, 1), got {size}; choose "
                "another data set or network."
            )
        return torch.from_numpy(self._points[self._rows(indices)]).to(device).view(-1, 2, 1, 1)


def scaled(stored: Tensor) -> Tensor:
    """Scale pixels, uint8, to [0, 1]; coordinates, float32, stay as they are."""
    return stored.float() / 255 if stored.dtype == torch.uint8 else stored


def _decode(picture: Picture, size: tuple[int, int, int], framing: Framing, where: str) -> npt.NDArray[np.uint8]:
    channels, height, width = size
    try:
        image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        image.load()
        image = _in_bytes(_upright(image)).convert(_MODES[channels])
    except MemoryError:
        raise
    # Pillow's decoders raise whatever a damaged file leads them to.
    except Exception as error:
        unknown = isinstance(error, UnidentifiedImageError)
        reason = "Pillow knows no such kind" if unknown else " ".join(str(error).split()) or type(error).__name__
        raise AssetError(
            f"{where} must be an image, but it cannot be decoded: {reason}; get the file again, or remove it."
        ) from error
    if image.size != (width, height):
        image = _framed(image, width, height, framing)
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    """Return an image as its camera was held: EXIF tells how its stored rows lie."""
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Damaged EXIF tells nothing, and no viewer minds it.
    except Exception:  # noqa: BLE001
        return image
    return image if turn is None else image.transpose(turn)


def _in_bytes(image: Image.Image) -> Image.Image:
    """Return grey of 16 bits as its upper 8, as Pillow reads colours of 16 bits; it would cut off all above 255."""
    is_wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _KINDS_OF_16_BITS)
    if not is_wide and image.mode in ("I", "F"):
        raise ValueError(f"its pixels are numbers of 32 bits (mode `{image.mode}`) whose range nobody states")
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if is_wide else image


def _framed(image: Image.Image, width: int, height: int, framing: Framing) -> Image.Image:
    how = Image.Resampling.BICUBIC if framing.interpolation == "bicubic" else Image.Resampling.BILINEAR
    if framing.crop is None:
        return image.resize((width, height), how)
    # The same roundings as torchvision's `Resize` and `CenterCrop`, with which the networks were evaluated.
    shorter = math.floor(min(width, height) / framing.crop)
    scale = shorter / min(image.size)
    wide, high = (shorter if side == min(image.size) else int(side * scale) for side in image.size)
    image = image.resize((wide, high), how)
    left, top = round((wide - width) / 2), round((high - height) / 2)
    return image.crop((left, top, left + width, top + height))


class Source(Protocol):
    """One split where it lies."""

    def fingerprint(self) -> list[tuple[str, str]]:
        """Return the name and sha256 of each part of it."""

    def placed_files(self) -> list[tuple[str, Path]]:
        """Return its files, and the folders that name classes, with their places in the folder of the data set."""

    def load(self, name: str) -> Split:
        """Return it, with its labels read and checked; `name` is for messages."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set at hand.

    Attributes:
        name: its name in suites.
        classes: name of each label, or None where the labels have no names of their own.
        sources: split name to where the split lies.
        n_labels: number of labels where they have no names and it is known all the same.
    """

    name: str
    classes: tuple[str, ...] | None
    sources: Mapping[str, Source]
    n_labels: int | None = None

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 over split, file name and sha256 of every file, sorted, or over the embedded arrays."""
        return remembered(self.placed_files(), self._compute_digest)

    def _compute_digest(self) -> str:
        return digest([[split, *part] for split in sorted(self.sources) for part in self.sources[split].fingerprint()])

    def placed_files(self) -> dict[str, Path]:
        """Return its files, and the folders that name classes, by their places in a folder of its name.

        A copy of them is the same data set; one that is embedded or generated has none.
        """
        return {place: path for split in sorted(self.sources) for place, path in self.sources[split].placed_files()}

    def split(self, name: str) -> Split:
        """Return a split, with its labels read and checked.

        Raises:
            UnknownNameError: there is no such split.
            AssetError: the split is empty, or a file of it is damaged or holds other columns or labels.
        """
        if name not in self.sources:
            raise UnknownNameError(f"`{self.name}` has no split `{name}`; it has {', '.join(sorted(self.sources))}.")
        split = self.sources[name].load(f"`{name}` of `{self.name}`")
        if len(split) == 0:
            raise AssetError(f"a split must hold images, but `{name}` of `{self.name}` is empty; get the data again.")
        return split

"""Folders of images, `<split>/<class>/*.png`: which of what lies there is a split, a class or an image."""

import functools
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pruneboard.benchmark.assets import file_sha256
from pruneboard.benchmark.data._splits import Dataset, ImageSplit, Picture, Split
from pruneboard.benchmark.errors import AssetError

_KINDS = re.compile(
    r".+\.(apng|avifs?|bmp|dib|gif|j2[ck]|jfif|jp[2cfx]|jpe|jpe?g|mpo|p[bgnp]m|pcx|png|qoi|sgi|tga|tiff?|webp)", re.I
)
"""Kinds of image that Pillow reads; a fixed list, so that a folder has one digest with every build of it."""
_FOREIGN_KINDS = re.compile(r".+\.(arw|cr[23]|dng|exr|hdr|hei[cf]|jxl|nef|orf|raf|raw|rw2|svg)", re.I)
"""Kinds that it does not read, and that somebody took for images of a class."""
_LITTER = frozenset(("$RECYCLE.BIN", "#recycle", "@eaDir", "__MACOSX", "lost+found", "System Volume Information"))
"""Folders that systems put beside those of people."""
_SPLITS = frozenset(("train", "test", "val", "valid", "validation"))
"""Names that are given to splits, whatever lies in them."""
_MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Images:
    """Image files of one split.

    Attributes:
        folders: the folder of each class in the order of labels, with the names of its images, sorted.
    """

    folders: tuple[tuple[Path, tuple[str, ...]], ...]

    def fingerprint(self) -> list[tuple[str, str]]:
        return [(f"{path.parent.name}/{path.name}", file_sha256(path)) for path, _ in self._files()]

    def placed_files(self) -> list[tuple[str, Path]]:
        paths = [*(folder for folder, _ in self.folders), *(path for path, _ in self._files())]
        root = self.folders[0][0].parent.parent
        return [(path.relative_to(root).as_posix(), path) for path in paths]

    def load(self, name: str) -> Split:
        files = self._files()

        def read(rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, Picture, str]]:
            for position, row in enumerate(rows):
                path = files[row][0]
                try:
                    yield position, path.read_bytes(), f"`{path}`"
                except OSError as error:
                    raise AssetError(f"`{path}` must be a readable file, but {error}.") from error

        return ImageSplit(name, np.array([label for _, label in files], dtype=np.int64), read)

    def _files(self) -> list[tuple[Path, int]]:
        return [(folder / name, label) for label, (folder, names) in enumerate(self.folders) for name in names]


@dataclass
class _Found:
    """What lies in a folder that may be a split.

    Attributes:
        folder: the folder.
        classes: its folders that hold images, by their names, with the names of these.
        others: its folders without images, by their names.
        inner: folders in those of classes, by their places.
        deep: an image below the folder of a class, if there is one.
        foreign: an image of a kind that nobody here reads, if there is one.
        suffixes: how many files of each other kind lie beside images.
        has_images: whether images lie in it directly.
    """

    folder: Path
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    inner: set[str] = field(default_factory=set)
    deep: Path | None = None
    foreign: Path | None = None
    suffixes: Counter[str] = field(default_factory=Counter)
    has_images: bool = False


def open_images(name: str, folder: Path) -> Dataset:
    """Open a folder of images; a class is a folder with images, or one that all splits have, a split has classes.

    What else lies there is left out, and said once.

    Raises:
        AssetError: it cannot be read, holds no splits, or the splits have other classes than each other.
    """
    looked = {path.name: _look(path) for path in _subfolders(folder)}
    train = looked["train"].classes if "train" in looked else {}
    splits = {
        split: found
        for split, found in looked.items()
        if found.classes and (not train or split in _SPLITS or not train.keys().isdisjoint(found.classes))
    }
    if not splits:
        raise AssetError(_why_none(name, folder, looked))
    _check(name, splits)
    empty = set.intersection(*(found.others for found in splits.values()))
    classes = tuple(sorted({*next(iter(splits.values())).classes, *empty}))
    _say_what_is_left_out(name, folder, looked, splits, classes)
    return Dataset(
        name,
        classes,
        {s: Images(tuple((f.folder / c, f.classes.get(c, ())) for c in classes)) for s, f in splits.items()},
    )


def _look(folder: Path) -> _Found:
    found = _Found(folder)
    for path in _subfolders(folder):
        names, inner = [], []
        for name, is_dir in entries(path):
            if is_dir:
                inner.append(path / name)
            elif _is_image(name):
                names.append(name)
            elif _FOREIGN_KINDS.fullmatch(name):
                found.foreign = found.foreign or path / name
            else:
                found.suffixes[Path(name).suffix.lower() or name] += 1
        found.deep = found.deep or next(_images_below(inner), None)
        if names:
            found.classes[path.name] = tuple(names)
            found.inner |= {f"{path.name}/{folder.name}" for folder in inner}
        else:
            found.others.add(path.name)
    found.has_images = _holds_images(folder)
    return found


def _images_below(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if _is_litter(folder.name):
            continue
        for name, is_dir in entries(folder):
            if is_dir:
                yield from _images_below([folder / name])
            elif _is_image(name):
                yield folder / name


def _check(name: str, splits: Mapping[str, _Found]) -> None:
    """Raise unless splits have the same classes, and all of their images can be read where they lie."""
    first = "train" if "train" in splits else next(iter(splits))
    for found in splits.values():
        if found.foreign is not None:
            raise AssetError(
                f"images must be of a kind that Pillow reads, but `{found.foreign}` is not; convert it to PNG, or "
                "remove it."
            )
        if found.deep is not None:
            raise AssetError(
                f"images must lie in `<split>/<class>/` itself, but `{found.deep}` lies deeper; move it there, or "
                "remove it."
            )
    for split in splits:
        for one, other in ((first, split), (split, first)):
            if lacking := sorted(splits[one].classes.keys() - splits[other].classes.keys()):
                raise AssetError(
                    f"the splits of a data set must have the same classes, but `{lacking[0]}` of `{name}` has images "
                    f"in `{one}` and none in `{other}`; add some, or remove the folder if it is no class."
                )


def _why_none(name: str, folder: Path, looked: Mapping[str, _Found]) -> str:
    """Say why a folder is no data set, and what would make it one."""
    layout = "a data set must hold `<split>-00000-of-00001.parquet` or `<split>/<class>/*.png`"
    flat = sorted(split for split, found in looked.items() if found.has_images and split not in _SPLITS)
    if flat:
        return (
            f"{layout}, but `{folder}` holds classes ({_some(flat)}) and no splits; move some images of each class to "
            f"`{folder / 'test'}/<class>/`, and the others to `{folder / 'train'}/<class>/`."
        )
    if _holds_images(folder) or any(found.has_images for found in looked.values()):
        return f"{layout}, but `{folder}` holds images without classes; move each to `<split>/<class>/`."
    deep = next((found.deep for found in looked.values() if found.deep is not None), None)
    if deep is not None:
        return (
            f"{layout}, but images of `{folder}` lie deeper, such as `{deep}`; name the folder that holds the splits."
        )
    foreign = next((found.foreign for found in looked.values() if found.foreign is not None), None)
    return f"{layout}, but `{folder}` holds neither" + (
        f"; `{foreign}` is of a kind that Pillow does not read, so convert it to PNG." if foreign else "."
    )


def _say_what_is_left_out(
    name: str, folder: Path, looked: Mapping[str, _Found], splits: Mapping[str, _Found], classes: Sequence[str]
) -> None:
    """Say what nobody might miss, once: processes that are started for jobs open the data again."""
    if multiprocessing.parent_process() is not None:
        return
    left = [f"`{split}`" for split in looked if split not in splits]
    left += [f"`{path}`" for path, is_dir in entries(folder) if is_dir and _is_litter(path)]
    suffixes: Counter[str] = Counter()
    for split, found in splits.items():
        left += [f"`{split}/{other}`" for other in sorted(found.others.difference(classes) | found.inner)]
        left += [f"`{split}/{path}`" for path, is_dir in entries(found.folder) if is_dir and _is_litter(path)]
        suffixes += found.suffixes
    said = []
    if left:
        said.append(f"the folders {_some(left)}, which are no classes of it,")
    if suffixes:
        kinds = _some([f"{n} {suffix}" for suffix, n in suffixes.most_common()])
        said.append(f"{suffixes.total()} files of other kinds ({kinds})")
    if said:
        _say(folder, f"`{name}` is read without {' and '.join(said).removesuffix(',')}.")
    if all(c.isdecimal() for c in classes) and list(classes) != sorted(classes, key=int):
        _say(
            folder,
            f"The classes of `{name}` are numbered in the order of texts, {_some(classes)}; give them equally many "
            "digits if they are the labels of the network.",
        )


@functools.cache
def _say(_folder: Path, text: str) -> None:
    """Print a note on stderr, once for each folder, however often it is opened."""
    print(text, file=sys.stderr)


def _some(texts: Sequence[str]) -> str:
    """Return the first of some texts, and how many more there are."""
    more = len(texts) - _MOST_NAMED
    return ", ".join(texts[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _is_image(name: str) -> bool:
    return _KINDS.fullmatch(name) is not None and not name.startswith(".")


def _holds_images(folder: Path) -> bool:
    return any(not is_dir and _is_image(name) for name, is_dir in entries(folder))


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


def _subfolders(folder: Path) -> list[Path]:
    return [folder / name for name, is_dir in entries(folder) if is_dir and not _is_litter(name)]


def entries(folder: Path) -> list[tuple[str, bool]]:
    """Return the names in a folder, sorted, and whether each is a folder.

    Raises:
        AssetError: it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry.name, entry.is_dir()) for entry in found)
    except OSError as error:
        raise AssetError(f"`{folder}` must be a readable folder, but {error}; correct its permissions.") from error

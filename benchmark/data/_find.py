"""Find a data set by its name: embedded, at hand in a folder, or fetched."""

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pruneboard.benchmark.assets import cache_folder, check_sha256, data_folders, is_file, is_folder
from pruneboard.benchmark.data._hub import fetch
from pruneboard.benchmark.data._points import POINT_SPLITS, Points
from pruneboard.benchmark.data._records import DatasetInfo, Record, records
from pruneboard.benchmark.data._sources import Digits, Shards, open_folder
from pruneboard.benchmark.data._splits import Dataset
from pruneboard.benchmark.errors import AssetError, UnknownNameError

_NAME = re.compile(r"\w[\w.-]*")


def datasets() -> tuple[DatasetInfo, ...]:
    """Return the recorded data sets and where each was found; nothing is read or checked.

    Raises:
        AssetError: `$PRUNEBOARD_DATA` names something that is no folder.
    """
    return tuple(
        DatasetInfo(
            name=record.name,
            kind=record.kind,
            title=record.title,
            terms=record.terms,
            contamination=record.contamination,
            subset_of=record.subset_of,
            where=_where(record),
        )
        for record in records().values()
    )


def open_dataset(name: str) -> Dataset:
    """Open a data set: one that is at hand, else fetch it.

    Raises:
        UnknownNameError: it is neither recorded nor found in a data folder.
        AssetError: it is damaged, not the recorded one, or can be had from nowhere.
    """
    if name not in records() and _locate(name) is None:
        near = difflib.get_close_matches(name, records(), n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise UnknownNameError(
            f"there is no data set `{name}`.{hint} Known: {', '.join(sorted(records()))}; and each folder in "
            f"{_places()}."
        )
    return find_dataset((name,))


def find_dataset(names: Sequence[str]) -> Dataset:
    """Open the first of several accepted data sets that is at hand, else the first that can be fetched.

    A data set that is at hand but damaged is an error: the next one is not tried in its place.

    Raises:
        AssetError: the one at hand is damaged or not the recorded one, or none can be had.
    """
    if (found := look_for_dataset(names)) is not None:
        return found
    failures = []
    for name in names:
        record = records().get(name)
        if record is not None and record.hub:
            folder = _cached() / name
            try:
                fetch(record.hub, [file.name for file in record.files], folder)
                return _open_recorded(record, folder)
            except AssetError as error:
                failures.append(f"; `{name}` could not be fetched: {error}")
    raise AssetError(_missing(names, "".join(failures)))


def look_for_dataset(names: Sequence[str]) -> Dataset | None:
    """Open the first of several accepted data sets that is at hand; None where one has to be fetched.

    Raises:
        AssetError: the one at hand is damaged or not the recorded one, or none is at hand and none can be fetched.
    """
    for name in names:
        record = records().get(name)
        if record is not None and record.kind == "sklearn":
            return Dataset(name, record.classes, {split: Digits(split) for split in ("test", "train")})
        if record is not None and record.kind == "points":
            return Dataset(name, record.classes, {split: Points(name, split) for split in POINT_SPLITS})
        if (folder := _locate(name)) is not None:
            if record is None:
                return open_folder(name, folder)
            return _open_folder(record, folder) if record.kind == "folder" else _open_recorded(record, folder)
    if not any(records()[name].hub for name in names if name in records()):
        raise AssetError(_missing(names))
    return None


def _missing(names: Sequence[str], failures: str = "") -> str:
    return (
        f"a data set must be at hand, but there is no folder {' or '.join(f'`{name}`' for name in names)} in "
        f"{_places()}{failures}. Name the folder that holds it in `PRUNEBOARD_DATA`."
    )


def _open_recorded(record: Record, folder: Path) -> Dataset:
    shards: dict[str, list[Path]] = {}
    for file in record.files:
        path = next(filter(is_file, (folder / file.name, folder / Path(file.name).name)), None)
        if path is None:
            raise AssetError(
                f"`{record.name}` must hold `{file.name}`, but `{folder}` does not; complete the folder, or remove it."
            )
        if file.sha256:
            check_sha256(path, file.sha256, "replace it by the published file, or give the folder another name")
        shards.setdefault(file.split, []).append(path)
    sources = {split: Shards(tuple(paths), record.n_classes) for split, paths in shards.items()}
    return Dataset(record.name, record.classes, sources, record.n_classes)


def _open_folder(record: Record, folder: Path) -> Dataset:
    """Open a data set of which everyone has files of their own, in the hub's layout or as a folder of images."""
    found = open_folder(record.name, folder)
    sources = {"validation" if split == "val" else split: source for split, source in found.sources.items()}
    if found.classes is not None and len(found.classes) != record.n_classes:
        raise AssetError(
            f"`{record.name}` must have {record.n_classes} classes, but `{folder}` has {len(found.classes)}; complete "
            "it, or give a folder with some of them another name."
        )
    checked = {
        split: replace(source, n_classes=record.n_classes) if isinstance(source, Shards) else source
        for split, source in sources.items()
    }
    return Dataset(record.name, found.classes, checked, record.n_classes)


def _where(record: Record) -> str:
    if record.kind == "sklearn":
        return "embedded in scikit-learn"
    if record.kind == "points":
        return "generated when it is needed"
    if (folder := _locate(record.name)) is not None:
        return str(folder)
    if record.hub:
        return f"not found; fetched from the hub, {record.hub}"
    return "not found; name the folder that holds it in PRUNEBOARD_DATA"


def _locate(name: str) -> Path | None:
    """Return the folder of a data set, if there is one and `name` can be the name of one."""
    if not _NAME.fullmatch(name):
        return None
    return next((folder / name for folder in _folders() if is_folder(folder / name)), None)


def _folders() -> tuple[Path, ...]:
    return (*data_folders(), _cached())


def _cached() -> Path:
    return cache_folder() / "datasets"


def _places() -> str:
    unset = "" if os.environ.get("PRUNEBOARD_DATA") else " (`PRUNEBOARD_DATA` is not set)"
    return ", ".join(f"`{folder}`" for folder in _folders()) + unset

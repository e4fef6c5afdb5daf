"""The files of data and weights that jobs need: which they are, and how a node comes by each of them once."""

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruneboard.benchmark import plugins
from pruneboard.benchmark.assets import cache_folder, data_folders, file_sha256, is_file, weights_folders
from pruneboard.benchmark.errors import AssetError
from pruneboard.benchmark.runner import Workbench
from pruneboard.benchmark.schema import Job, digest


@dataclass(frozen=True, kw_only=True)
class NeededFile:
    """A file that jobs need, or a folder that has to be there even when it is empty.

    Attributes:
        place: its path in a cache, such as `weights/resnet18.safetensors` or `datasets/cifar10/test/cat`.
        path: where the driver has it.
        n_bytes: its size, 0 for a folder.
        sha256: of its content, empty for a folder.
    """

    place: str
    path: Path
    n_bytes: int
    sha256: str


def needed_files(jobs: Sequence[Job], bench: Workbench) -> tuple[NeededFile, ...]:
    """Return the files of data and weights that jobs need, as this machine has them.

    Raises:
        AssetError: one of them cannot be read.
    """
    places: dict[str, Path] = {}
    for dataset in {bench.dataset(job) for job in jobs}:
        places |= {f"datasets/{dataset.name}/{place}": path for place, path in dataset.placed_files().items()}
    for name in {job.model for job in jobs}:
        model = plugins.models().get(name)
        if (path := model.weights_file) is not None:
            places[f"weights/{model.weights.file if model.weights else path.name}"] = path
    return tuple(_needed(place, path.absolute()) for place, path in sorted(places.items()))


def _needed(place: str, path: Path) -> NeededFile:
    if path.is_dir():
        return NeededFile(place=place, path=path, n_bytes=0, sha256="")
    return NeededFile(place=place, path=path, n_bytes=path.stat().st_size, sha256=file_sha256(path))


class NodeFiles:
    """The needed files on a node, under the places where pruneboard looks for them.

    What the node has already, in its cache or where its `$PRUNEBOARD_DATA` and `$PRUNEBOARD_WEIGHTS` point to, is
    linked to. The rest is received into `ray/files` of its cache. Every content is named by its sha256 and checked
    against it, so runs with different files do not disturb each other.

    Args:
        needed: what is needed.
    """

    def __init__(self, needed: Sequence[NeededFile]) -> None:
        self._needed = needed
        cache = cache_folder()
        self._received = cache / "ray" / "files"
        self.folder = cache / "ray" / "views" / digest([[file.place, file.sha256] for file in needed])[:16]
        self._own = {
            "datasets": (*data_folders(), cache / "datasets"),
            "weights": (*weights_folders(), cache / "weights"),
        }

    def link(self) -> list[NeededFile]:
        """Link to what the node has, and return what it lacks.

        Raises:
            AssetError: its cache cannot be written to.
        """
        lacking = []
        with _writing(self.folder):
            for file in self._needed:
                place = self.folder / file.place
                if not file.sha256:
                    place.mkdir(parents=True, exist_ok=True)
                elif (found := self._find(file)) is None:
                    lacking.append(file)
                else:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _link(place, found)
        return lacking

    def _find(self, file: NeededFile) -> Path | None:
        kind, _, place = file.place.partition("/")
        candidates = (self._received / file.sha256, *(folder / place for folder in self._own[kind]))
        return next((path for path in candidates if _is_same(path, file)), None)

    def receive(self, file: NeededFile, chunks: Iterable[bytes]) -> bool:
        """Receive a file that the node lacked, unless another of its processes did so meanwhile.

        Args:
            file: the file.
            chunks: its content; taken only when the file has to be received.

        Returns:
            Whether it was received.

        Raises:
            AssetError: another content arrived, or the cache cannot be written to.
        """
        target = self._received / file.sha256
        with _writing(target), _one_at_a_time(self._received):
            if _is_same(target, file):
                return False
            with tempfile.TemporaryDirectory(dir=self._received, prefix=".fetch-") as folder:
                arrived = Path(folder) / "file"
                total = hashlib.sha256()
                with arrived.open("wb") as out:
                    for chunk in chunks:
                        out.write(chunk)
                        total.update(chunk)
                if total.hexdigest() != file.sha256:
                    raise AssetError(
                        f"`{file.path}` must arrive with the sha256 {file.sha256}, got {total.hexdigest()}; leave the "
                        "file as it is while the run goes on, and run again."
                    )
                arrived.replace(target)
        return True

    def use(self) -> None:
        """Have this process find the needed files, and nothing else that the node has.

        Raises:
            AssetError: one of them is not there any more.
        """
        if lacking := self.link():
            raise AssetError(f"`{lacking[0].place}` must be at hand once it was received; leave the cache as it is.")
        os.environ["PRUNEBOARD_CACHE"] = str(self.folder)
        for variable in ("PRUNEBOARD_DATA", "PRUNEBOARD_WEIGHTS"):
            os.environ.pop(variable, None)


def _is_same(path: Path, file: NeededFile) -> bool:
    try:
        return is_file(path) and path.stat().st_size == file.n_bytes and file_sha256(path) == file.sha256
    except (AssetError, OSError):
        # A place that this process may not look into holds nothing for it.
        return False


def _link(place: Path, target: Path) -> None:
    """Make a link that replaces an older one whole, while other processes of the node do the same."""
    if place.is_symlink() and place.readlink() == target:
        return
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".link-") as folder:
        link = Path(folder) / "link"
        link.symlink_to(target)
        link.replace(place)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise AssetError(
            f"`{path}` must be writable, but {error.strerror or error}; name another folder in the "
            "`PRUNEBOARD_CACHE` of the node."
        ) from error


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold a lock of a folder, which the system releases when its holder dies."""
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""How contents of files travel: in objects of Ray's store, small files together and large ones in parts."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import ray

from pruneboard.benchmark.errors import AssetError
from pruneboard.benchmark.executors._ray._files import NeededFile

_PARCEL_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Piece:
    """A part of a file.

    Attributes:
        parcel: the object that holds it, a list of contents.
        position: its position among them.
    """

    parcel: "ray.ObjectRef[list[bytes]]"
    position: int


class Outbox:
    """Files in the cluster's store of objects, where nodes take them from, and from each other, until the run ends."""

    def __init__(self) -> None:
        self._pieces: dict[NeededFile, list[Piece]] = {}

    def put(self, files: Sequence[NeededFile]) -> dict[NeededFile, list[Piece]]:
        """Put files into the store that are not yet there, and return the pieces of all of them in order.

        Raises:
            AssetError: one of them cannot be read any more.
        """
        waiting: list[tuple[NeededFile, bytes]] = []
        n_bytes = 0
        for file in files:
            if file in self._pieces:
                continue
            self._pieces[file] = []
            for part in _parts(file):
                if n_bytes + len(part) > _PARCEL_BYTES:
                    self._put(waiting)
                    n_bytes = 0
                waiting.append((file, part))
                n_bytes += len(part)
        self._put(waiting)
        return {file: self._pieces[file] for file in files}

    def _put(self, waiting: list[tuple[NeededFile, bytes]]) -> None:
        if waiting:
            parcel = ray.put([part for _, part in waiting])
            for position, (file, _) in enumerate(waiting):
                self._pieces[file].append(Piece(parcel, position))
            waiting.clear()


def _parts(file: NeededFile) -> Iterator[bytes]:
    try:
        with file.path.open("rb") as content:
            while part := content.read(_PARCEL_BYTES):
                yield part
    except OSError as error:
        raise AssetError(
            f"`{file.path}` must stay readable while the run goes on, but {error.strerror}; put it back and run again."
        ) from error


def contents(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Yield the contents of pieces, on any node."""
    return (_open(piece.parcel)[piece.position] for piece in pieces)


@functools.lru_cache(maxsize=1)
def _open(parcel: "ray.ObjectRef[list[bytes]]") -> list[bytes]:
    return list(ray.get(parcel))

"""What a task printed, in a file of bounded size."""

import contextlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from pruneboard.benchmark.errors import StoreError

MOST_BYTES = 2**20
_TAIL_BYTES = 2**16
"""What is kept of the end of a text that is too long: a traceback comes last."""


class TaskLog:
    """A file that is made when the first byte is written to it, and holds the beginning and the end of a long text.

    Args:
        path: the file; what an earlier attempt left there is removed.
        most_bytes: bytes to keep of what is written, more than `_TAIL_BYTES`.

    Raises:
        StoreError: the folder cannot be written.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._left = most_bytes - _TAIL_BYTES
        self._file: BinaryIO | None = None
        self._tail = bytearray()
        self._n_dropped = 0
        with self._writable():
            path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def write(self, text: bytes) -> None:
        """Add what was printed.

        Raises:
            StoreError: the file cannot be written.
        """
        head, rest = text[: self._left], text[self._left :]
        self._left -= len(head)
        self._put(head)
        self._tail += rest
        if (n_over := len(self._tail) - _TAIL_BYTES) > 0:
            del self._tail[:n_over]
            self._n_dropped += n_over

    def close(self) -> None:
        """Write what is left, and a note of what was left out.

        Raises:
            StoreError: the file cannot be written.
        """
        note = f"\n[{self._n_dropped} bytes are left out here]\n" if self._n_dropped else ""
        tail, self._tail = bytes(self._tail), bytearray()
        self._put(note.encode() + tail)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, text: bytes) -> None:
        if not text:
            return
        with self._writable():
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                # Unbuffered, so that nothing is lost with this process and a reader sees what is there.
                self._file = self._path.open("ab", buffering=0)
            self._file.write(text)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"`{self._path}` must be writable, but {(error.strerror or str(error)).lower()}; free space or choose "
                "another folder."
            ) from error

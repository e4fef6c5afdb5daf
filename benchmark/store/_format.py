"""One result file: Parquet with a checksum of all of its bytes.

Parquet's own checksums guard the pages but not the footer, which says what the pages mean. So the footer holds a seal:
the sha256 of the whole file, with zeros in its own place. The seal of a job's file also names status and key, which is
all that a run asks of the files that are there.
"""

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pruneboard.benchmark.errors import DamagedFileError, NewerFileError, StoreError
from pruneboard.benchmark.schema import COLUMNS, SCHEMA_VERSION, TUNED_SUFFIX, Row
from pruneboard.benchmark.store._files import atomic_file, read_bytes, shown
from pruneboard.benchmark.store._migrations import OLDEST, migrate

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
SCHEMA = pa.schema([pa.field(c.name, _ARROW[c.kind], nullable=c.nullable) for c in COLUMNS])
"""Columns as they are written."""

STRINGS = [c.name for c in COLUMNS if c.kind is str]

_PLAIN = re.compile(r"[a-z_][a-z0-9_]{0,63}")
_IN_PATHS = {
    "suite": re.compile(r"[a-z][a-z0-9_]{0,199}"),
    "model": _PLAIN,
    "granularity": _PLAIN,
    "criterion": re.compile(rf"{_PLAIN.pattern}({re.escape(TUNED_SUFFIX)})?"),
    "key": re.compile(r"[0-9a-z]{16,128}"),
}
"""What becomes part of names of files; the lower case keeps names apart where a file system does not."""
READ_SCHEMA = pa.schema(
    [
        pa.field(c.name, pa.dictionary(pa.int32(), pa.string()) if c.kind is str else _ARROW[c.kind], c.nullable)
        for c in COLUMNS
    ]
)
"""Columns as they are read: texts as numbers of a dictionary, because a job's rows repeat them."""

_VERSION = "pruneboard_schema"
_SEAL = "pruneboard_seal"
_NO_DIGEST = "0" * 64
_END = b"PAR1"
# In the footer, Thrift puts the type and the length of the value between the name and the value.
_SEALED = re.compile(rb"pruneboard_seal\x18.{1,2}?([0-9a-f]{64})(?: ([a-z]+) ([^;]+);)?", re.DOTALL)


@dataclass(frozen=True)
class Seal:
    """What the seal of a whole file says.

    Attributes:
        status: status of the job; empty for a file of several jobs.
        key: key of the job; empty for a file of several jobs.
    """

    status: str
    key: str


def table_of(rows: Sequence[Row]) -> pa.Table:
    """Return rows as they are written."""
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in SCHEMA]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_job(table: pa.Table, path: Path, *, key: str, status: str) -> None:
    """Write the rows of one job at once.

    Raises:
        StoreError: the folder cannot be written.
    """
    _write(table, path, f" {status} {key};", compression="none")


def write_segment(table: pa.Table, path: Path) -> None:
    """Write the rows of several jobs at once.

    Raises:
        StoreError: the folder cannot be written.
    """
    _write(table, path, "", compression="zstd")


def _write(table: pa.Table, path: Path, about: str, *, compression: str) -> None:
    data = sealed(table.unify_dictionaries(), about, compression=compression)
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def sealed(table: pa.Table, about: str = "", *, compression: str = "none") -> bytes:
    """Return the bytes of a file with these rows and its seal.

    Raises:
        StoreError: status or key is no word.
    """
    sink = io.BytesIO()
    # A job's texts are one entry of a dictionary each: compressing so little only costs time.
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=compression,
        write_statistics=False,
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_VERSION: str(SCHEMA_VERSION), _SEAL: _NO_DIGEST + about})
    data = bytearray(sink.getvalue())
    start = _sealed_at(data)[0]
    if start < 0:
        raise StoreError(
            f"a job's status and key must be words, got `{shown(about.strip())}`; make its key with `digest`."
        )
    data[start : start + len(_NO_DIGEST)] = _digest(data, start).encode()
    return bytes(data)


def check_seal(data: bytes, path: Path) -> Seal | None:
    """Return the seal of a whole file; None for a file of earlier releases, which had no seal.

    Raises:
        DamagedFileError: the file is empty, cut off or altered.
    """
    if len(data) < 12 or not data.endswith(_END):
        raise damaged(path, "empty" if not data else "cut off, or no Parquet file")
    if data.rfind(_SEAL.encode()) < 0:
        return None
    start, status, key = _sealed_at(data)
    if start < 0 or data[start : start + len(_NO_DIGEST)].decode() != _digest(data, start):
        raise damaged(path, "altered: its checksum is another")
    return Seal(status, key)


def read_seal(path: Path) -> Seal | None:
    """Read the seal of a file, and check that the file is whole.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is empty, cut off or altered.
        StoreError: it cannot be read.
    """
    return check_seal(read_bytes(path), path)


def read_table(path: Path, columns: Sequence[str] | None = None) -> tuple[pa.Table, int]:
    """Read the rows of a file in the present schema, texts as dictionaries, and the version that it was written in.

    Args:
        path: file.
        columns: only these columns, in this order; all when None.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the file is empty, cut off, altered, foreign, or older than any version that is read.
        NewerFileError: a newer version of pruneboard wrote it.
        StoreError: it cannot be read.
    """
    data = read_bytes(path)
    check_seal(data, path)
    schema = READ_SCHEMA if columns is None else pa.schema([READ_SCHEMA.field(name) for name in columns])
    try:
        file = _open(data)
        version = _version(file.schema_arrow.metadata or {}, path)
        if version < SCHEMA_VERSION:
            rows = migrate(file.read(use_threads=False).to_pandas(), version)
            return _with_names(_fitted(pa.Table.from_pandas(rows, preserve_index=False), schema, path), path), version
        table = file.read(columns=columns and list(columns), use_threads=False)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise damaged(path, f"no usable Parquet file: {type(error).__name__}") from error
    return _with_names(_fitted(table, schema, path), path), version


def _open(data: bytes) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(data), read_dictionary=STRINGS, page_checksum_verification=True)
    # It lacks one of these columns: it is older, or foreign.
    except KeyError:
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)


def _fitted(table: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    """Return a table with the columns of a schema, whose types and empty values have to be those of the schema."""
    # What no file of another origin equals needs no closer look: columns that are never empty are marked so in it.
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise damaged(path, f"foreign: it lacks the columns {', '.join(missing[:5])}")
    table = table.select(schema.names)
    for field, column in zip(schema, table.columns, strict=True):
        if column.null_count and not field.nullable:
            raise damaged(path, f"foreign: its column {field.name} has empty values")
    try:
        return table.cast(schema)
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise damaged(path, f"foreign: its values have other types ({type(error).__name__})") from error


def digest_of(table: pa.Table) -> str:
    """Return the sha256 of rows in any order, which is the same before they are written and when they are read."""
    lines = sorted(repr(tuple(line.values())) for line in table.select(SCHEMA.names).to_pylist())
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _with_names(table: pa.Table, path: Path) -> pa.Table:
    """Return a table all of whose names may become parts of paths."""
    for name, pattern in _IN_PATHS.items():
        for chunk in table[name].chunks if name in table.column_names else ():
            for value in chunk.dictionary.to_pylist():
                if not pattern.fullmatch(value):
                    raise damaged(path, f"foreign: its {name} is {shown(value)[:64]!r}, which is no name")
    return table


def _version(metadata: dict[bytes, bytes], path: Path) -> int:
    written = metadata.get(_VERSION.encode(), b"none").decode("utf-8", "replace")
    if not written.isascii() or not written.isdigit() or int(written) < OLDEST:
        raise damaged(path, f"foreign: its schema version is {shown(written)[:20]}")
    if int(written) > SCHEMA_VERSION:
        raise NewerFileError(
            f"job files must have a schema version from {OLDEST} to {SCHEMA_VERSION}, but `{shown(path)}` has "
            f"{written}; use a newer release of pruneboard, or another run folder.",
            f"of the newer schema version {written}",
        )
    return int(written)


def damaged(path: Path, why: str) -> DamagedFileError:
    """Return the error of a file that cannot be used."""
    return DamagedFileError(
        f"job files must be whole, but `{shown(path)}` is damaged ({why}); run the suite again, which repeats only the "
        "jobs that are lost, and remove what stays damaged with `pruneboard runs prune`.",
        why,
    )


def _sealed_at(data: bytes | bytearray) -> tuple[int, str, str]:
    """Return where the digest of a file starts, -1 when its seal is broken, and the status and key beside it."""
    # The footer comes last, and no row's text is in it.
    found = _SEALED.match(data, max(0, data.rfind(_SEAL.encode())))
    if found is None:
        return -1, "", ""
    status, key = ((part or b"").decode("utf-8", "replace") for part in found.group(2, 3))
    return found.start(1), status, key


def _digest(data: bytes | bytearray, start: int) -> str:
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(_NO_DIGEST.encode())
    digest.update(view[start + len(_NO_DIGEST) :])
    return digest.hexdigest()

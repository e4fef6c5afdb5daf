"""Files that are damaged, foreign, or in the way; disks that are full or read-only; leftovers of killed writers."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pruneboard.benchmark.errors import DamagedFileError, StoreError
from pruneboard.benchmark.store import RunStore
from pruneboard.benchmark.store._files import LEFTOVER_SECONDS, TEMPORARY, leftovers, remove_leftovers
from pruneboard.benchmark.store._format import check_seal, read_seal, read_table
from rows import job_of, job_rows, save
from store_processes import SUITE, key_of, rows_of

KEY = "1" * 64
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def three(tmp_path):
    """A run folder of three jobs, and their files."""
    store = RunStore(tmp_path / "runs")
    return store, [save(store, rows_of(number)) for number in range(3)]


def statuses(store, numbers=range(3)):
    return store.statuses([(job_of(rows_of(number)), key_of(number)) for number in numbers])


def test_a_file_with_any_bit_flipped_is_refused_or_reads_the_same(tmp_path):
    path = save(RunStore(tmp_path), job_rows(key=KEY))
    whole, expected = path.read_bytes(), read_table(path)[0]
    n_refused = n_unsealed = 0
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place % 8)
        try:
            unsealed = check_seal(bytes(altered), path) is None
        except DamagedFileError:
            n_refused += 1
            continue
        # Only a flip in the name of the seal hides that there is one; then all else is whole.
        assert unsealed
        n_unsealed += 1
        path.write_bytes(altered)
        try:
            assert read_table(path)[0].equals(expected)
        except DamagedFileError:
            n_refused += 1
    assert n_unsealed == len("pruneboard_seal")
    assert n_refused >= len(whole) - n_unsealed


def test_a_file_that_ends_anywhere_is_refused(tmp_path):
    path = save(RunStore(tmp_path), job_rows(key=KEY))
    whole = path.read_bytes()
    for length in [*range(0, 40), *range(40, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match="empty" if not length else "cut off"):
            read_table(path)


def test_a_reason_that_looks_like_a_seal_is_a_reason(tmp_path):
    store, reason = RunStore(tmp_path), "pruneboard_seal\x18\x40" + "0" * 64 + " ok " + "2" * 64 + ";"
    rows = job_rows(key=KEY, status="failed", reason=reason)
    path = save(store, rows)

    assert read_seal(path).key == KEY
    assert store.status(job_of(rows), KEY) == "failed"
    assert store.read(SUITE)["reason"].tolist() == [reason]


def damage(path, kind):
    whole = path.read_bytes()
    if kind == "foreign":
        pq.write_table(pa.table({"a": [1]}), path)
    elif kind == "other types":
        rows = read_table(path)[0].to_pandas().assign(seed="many", **{"top1": "high"})
        table = pa.Table.from_pandas(rows, preserve_index=False)
        pq.write_table(table.replace_schema_metadata({"pruneboard_schema": "3"}), path)
    elif kind == "empty values":
        rows = read_table(path)[0].to_pandas().assign(model=None)
        table = pa.Table.from_pandas(rows, preserve_index=False)
        pq.write_table(table.replace_schema_metadata({"pruneboard_schema": "3"}), path)
    else:
        kinds = {
            "empty": b"",
            "cut off": whole[:-20],
            "half": whole[: len(whole) // 2],
            "text": b"not parquet at all" * 9,
            "flipped": whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:],
            "zeros": bytes(len(whole)),
        }
        path.write_bytes(kinds[kind])


KINDS = ["empty", "cut off", "half", "text", "flipped", "zeros", "foreign", "other types", "empty values"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_by_readers_and_never_stops_a_run(three, kind):
    store, paths = three
    before = store.read(SUITE)
    damage(paths[1], kind)
    with pytest.raises(StoreError, match=r"is damaged \(") as caught:
        store.read(SUITE)
    assert paths[1].name in str(caught.value)
    assert "run the suite again" in str(caught.value)
    assert statuses(store)[0] == statuses(store)[2] == "ok"
    # The seal of a file tells its key and status, whatever has come to be in it; a file without one is looked into.
    assert statuses(store)[1] is None or kind in ("other types", "empty values")
    save(store, rows_of(1))

    pd.testing.assert_frame_equal(store.read(SUITE), before)


def test_all_damaged_files_are_named_at_once(three):
    store, paths = three
    for path, kind in zip(paths, ("empty", "half", "foreign"), strict=True):
        damage(path, kind)
    with pytest.raises(StoreError, match=r"but in `.*digits` 3 are not") as caught:
        store.read(SUITE)

    assert all(path.name in str(caught.value) for path in paths)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["cut off", "flipped", "foreign"])
def test_folding_leaves_damaged_files_where_they_are(three, kind):
    store, paths = three
    damage(paths[1], kind)
    content = paths[1].read_bytes()

    assert store.fold(SUITE, at_least=1) == 2
    assert paths[1].read_bytes() == content
    assert statuses(store) == ["ok", None, "ok"]
    save(store, rows_of(1))
    assert store.fold(SUITE, at_least=1) == 1
    assert statuses(store) == ["ok"] * 3


def test_a_damaged_segment_is_named_and_its_jobs_run_again(three):
    store, _ = three
    before = store.read(SUITE)
    store.fold(SUITE, at_least=1)
    (segment,) = store.folder.glob("digits/segments/*")
    damage(segment, "flipped")
    fresh = RunStore(store.folder)
    assert statuses(fresh) == [None] * 3
    for number in range(3):
        save(fresh, rows_of(number))
    with pytest.raises(StoreError, match=rf"{segment.name}` is damaged \(altered.*remove what stays damaged"):
        fresh.read(SUITE)
    with pytest.raises(StoreError, match=segment.name):
        save(fresh, rows_of(3))
        fresh.compact(SUITE)
        fresh.fold(SUITE, at_least=1)
        fresh.compact(SUITE)
    segment.unlink()
    pd.testing.assert_frame_equal(
        fresh.read(SUITE).query("seed < 3").reset_index(drop=True), before, check_categorical=False
    )


def test_what_is_no_job_file_is_left_alone(three):
    """Folders of others, pipes, links to nowhere and folders that are named like files."""
    store, paths = three
    before, folder = store.read(SUITE), paths[0].parent
    for name in ("claims", "logs", "tuning", "status.parquet", "folding/not-a-number"):
        (folder / name).mkdir(parents=True)
    (folder / "claims" / paths[0].name).write_bytes(b"someone's")
    (folder / "status").write_text("running")
    (folder / "speed.csv").write_text("version\n1\n")
    (folder / ".hidden.parquet").write_bytes(b"x")
    os.mkfifo(folder / "pipe.parquet")
    (folder / "nowhere.parquet").symlink_to(folder / "is not there")

    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert store.compact(SUITE) == 1
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert (folder / "claims" / paths[0].name).read_bytes() == b"someone's"


@pytest.mark.parametrize(
    "name",
    [
        b"copy.parquet",
        b"line\nbreak.parquet",
        b"\xff\xfe.parquet",
        b"a.b.c.d.0123456789abcdef.parquet",
        b"model.filters.x.99999999999999999999999.0123456789abcdef.parquet",
        b"-rf.parquet",
        b"[bold].parquet",
        b"....parquet",
    ],
)
def test_hostile_names(three, name):
    store, paths = three
    before = store.read(SUITE)
    hostile = Path(os.fsdecode(os.fsencode(paths[0].parent) + b"/" + name))
    shutil.copy(paths[0], hostile)
    if not name.startswith(b"...."):
        # A copy counts once, under whatever name.
        pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert statuses(store) == ["ok"] * 3
    store.fold(SUITE, at_least=1)
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    hostile.write_bytes(b"foreign")
    if not name.startswith(b"...."):
        with pytest.raises(StoreError, match="is damaged") as caught:
            store.read(SUITE)
        assert str(caught.value).isprintable()
    assert statuses(store) == ["ok"] * 3


def run(program, *, check=True):
    code = f"import sys\nsys.path.insert(0, {str(SUPPORT)!r})\n" + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_that_is_full_while_folding_loses_nothing(three):
    """The kernel refuses to grow the file, as it does on a full disk; SIGXFSZ is ignored so that write() fails."""
    store, _ = three
    before = store.read(SUITE)
    printed = run(
        f"""
        import pathlib, resource, signal
        from pruneboard.benchmark.errors import StoreError
        from pruneboard.benchmark.store import RunStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        try:
            RunStore(pathlib.Path({str(store.folder)!r})).fold("digits", at_least=1)
        except StoreError as error:
            print(error)
        """
    )
    assert "must be writable, but" in printed
    assert "free space or choose another folder" in printed
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert not list(store.folder.rglob(f"{TEMPORARY}*"))
    assert store.fold(SUITE, at_least=1) == 3
    pd.testing.assert_frame_equal(store.read(SUITE), before)
    assert [path.name for path in (store.folder / SUITE).iterdir()] == ["segments"]


def test_a_read_only_folder_is_read_and_not_written():
    """As nobody, because root may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        store = RunStore(Path(folder) / "runs")
        for number in range(3):
            save(store, rows_of(number))
        for path in (store.folder, store.folder / SUITE):
            path.chmod(0o555)
        printed = run(
            f"""
            import os, pathlib
            from pruneboard.benchmark.errors import StoreError
            from pruneboard.benchmark.store import RunStore
            from store_processes import key_of, rows_of, save
            from rows import job_of
            store = RunStore(pathlib.Path({str(store.folder)!r}))
            jobs = [(job_of(rows_of(number)), key_of(number)) for number in range(3)]
            rows_of(5), len(store.read("digits"))
            if os.getuid() == 0:
                os.setuid(65534)
            print(len(store.read("digits")), store.statuses(jobs))
            for call in (store.prepare, lambda: save(store, rows_of(5)), lambda: store.fold("digits", at_least=1)):
                try:
                    call()
                except StoreError as error:
                    print(error)
            """
        )
        for path in (store.folder, store.folder / SUITE):
            path.chmod(0o755)
        lines = printed.splitlines()
        assert lines[0] == "18 ['ok', 'ok', 'ok']"
        assert len(lines) == 4, printed
        assert all("permission denied" in line for line in lines[1:])
        assert len(store.read(SUITE)) == 18


@pytest.mark.parametrize("jump", [-1e9, 0, 1e9])
def test_leftovers_are_told_by_the_clock_of_the_file_system(tmp_path, monkeypatch, jump):
    """A clock of this machine that is years off makes no file old, and none young."""
    old, young = tmp_path / f"{TEMPORARY}old.parquet", tmp_path / f"{TEMPORARY}young.parquet"
    for path, age in ((old, LEFTOVER_SECONDS + 60), (young, LEFTOVER_SECONDS - 60)):
        path.touch()
        os.utime(path, (time.time() - age, time.time() - age))
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)

    assert leftovers(tmp_path) == [old]
    assert remove_leftovers(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == [young.name]


def test_a_run_removes_what_killed_writers_left(three):
    store, paths = three
    places = [store.folder, paths[0].parent, paths[0].parent / "segments"]
    places[2].mkdir()
    for place in places:
        (place / f"{TEMPORARY}x.parquet").touch()
        os.utime(place / f"{TEMPORARY}x.parquet", (1e9, 1e9))
    store.prepare()

    assert not list(store.folder.rglob(f"{TEMPORARY}*"))
    assert len(store.read(SUITE)) == 18

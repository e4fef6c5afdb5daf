import csv
import dataclasses
from functools import partial

import pytest
import torch
from torch import nn

from commands import ROOT, pruneboard_here, write_suite
from pruneboard.benchmark.cli import measuring
from pruneboard.benchmark.errors import ModelError, StoreError
from pruneboard.benchmark.physical import Timing, build, time_in_turns
from pruneboard.benchmark.render import Extras, build_site
from pruneboard.benchmark.render.speed import view_speeds
from pruneboard.benchmark.speeds import VERSION, Speed, SpeedStore, current_speeds
from synthetic import make_rows, make_suite


def _speed(**changes):
    values = {
        **{"version": VERSION, "suite": "digits", "suite_digest": make_suite().digest, "key": "k"},
        **{"model": "digits_vgg", "granularity": "filters", "criterion": "taylor", "seed": 0, "shots": 20},
        **{"rate": 0.5, "form": "exact", "n_units_removed": 100, "params": 20_000, "macs": 300_000},
        **{"batch_size": 1, "latency_seconds": 0.002, "latency_iqr_seconds": 1e-05, "n_runs": 21},
        **{"images_per_second": 500.0, "unpruned_seconds": 0.003, "speedup": 1.5, "device": "cpu <Fast>"},
        **{"threads": 1, "torch": "2.9.0", "pruneboard": "0.1.0", "commit": "c", "clean": True},
        **{"time_utc": "2026-01-01T00:00:00+00:00"},
    }
    return Speed(**values | changes)


class _Work(nn.Module):
    def __init__(self, n_products):
        super().__init__()
        self.n_products = n_products
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += 1
        for _ in range(self.n_products):
            x = x @ x
        return x


def test_networks_are_timed_in_turns():
    networks = [_Work(1), _Work(12)]
    images = torch.eye(192)
    light, heavy = time_in_turns(networks, images, Timing(threads=1, n_rounds=5, seconds=0.002))

    assert 3 < heavy.median / light.median < 60
    assert light.iqr >= 0
    assert light.n_runs % 5 == heavy.n_runs % 5 == 0
    assert light.n_runs > heavy.n_runs
    assert all(network.n_calls >= latency.n_runs for network, latency in zip(networks, (light, heavy), strict=True))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(measuring, "Timing", partial(Timing, n_rounds=2, seconds=0.0))


@pytest.fixture
def small(tmp_path):
    return write_suite(
        tmp_path,
        models={"digits_vgg": ["filters"], "digits_vit": ["heads"]},
        criteria=["magnitude", "bn_scale"],
        rates=(0.0, 0.25, 0.5),
    )


def test_the_command_measures_what_is_missing_and_keeps_the_rest(small, quick, tmp_path):
    command = ("speed", small, "--device", "cpu", "--threads", 1, "--batch-size", 3)
    done = pruneboard_here(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out: criterion `bn_scale` declines `digits_vit` by heads" in done.stdout
    path = tmp_path / "runs" / "small" / "speed.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert {(row["model"], row["criterion"]) for row in rows} == {
        ("digits_vgg", "magnitude"),
        ("digits_vgg", "bn_scale"),
        ("digits_vit", "magnitude"),
    }
    assert {(row["rate"], row["batch_size"]) for row in rows} == {(r, b) for r in ("0.0", "0.25", "0.5") for b in "13"}
    for row in rows:
        latency = float(row["latency_seconds"])
        assert float(row["images_per_second"]) == pytest.approx(int(row["batch_size"]) / latency)
        assert float(row["speedup"]) == pytest.approx(float(row["unpruned_seconds"]) / latency)
        assert row["rate"] != "0.0" or row["speedup"] == "1.0"
    before = path.read_bytes()
    again = pruneboard_here(*command, "--model", "digits_vgg", cwd=tmp_path)
    assert again.returncode == 0
    assert path.read_bytes() == before
    more = pruneboard_here(
        *command, "--model", "digits_vgg", "--criterion", "magnitude", "--rate", 0.6, "--coupled", cwd=tmp_path
    )
    assert more.returncode == 0, more.stderr
    assert [(s.rate, s.form) for s in SpeedStore(tmp_path / "runs").read("small") if s.form == "coupled"] == [
        (0.6, "coupled"),
        (0.6, "coupled"),
    ]


def test_ctrl_c_keeps_what_was_measured(small, quick, monkeypatch, tmp_path):
    timed = []

    def time_once(networks, images, timing):
        if timed:
            raise KeyboardInterrupt
        timed.append(len(images))
        return time_in_turns(networks, images, timing)

    monkeypatch.setattr(measuring, "time_in_turns", time_once)
    command = ("speed", small, "--device", "cpu", "--batch-size", 1, "--criterion", "magnitude")
    done = pruneboard_here(*command, cwd=tmp_path)

    assert done.returncode == 130
    assert "the same command continues" in done.stdout
    assert {speed.model for speed in SpeedStore(tmp_path / "runs").read("small")} == {"digits_vgg"}


def test_a_network_that_cannot_be_cut_does_not_keep_the_others_from_being_measured(small, quick, monkeypatch, tmp_path):
    def build_or_refuse(scored, rate, form):
        if scored.job.model == "digits_vgg":
            raise ModelError("a layer must be cut, but `x` cannot; choose another network.")
        return build(scored, rate, form)

    monkeypatch.setattr(measuring, "build", build_or_refuse)
    command = ("speed", small, "--device", "cpu", "--batch-size", 1, "--criterion", "magnitude", "--rate", 0.5)
    done = pruneboard_here(*command, cwd=tmp_path)

    assert done.returncode == 1
    assert "failed: `digits_vgg` by filters: a layer must be cut, but `x` cannot; choose another network." in (
        done.stdout
    )
    assert "1 of 2 failed" in done.stdout
    assert {speed.model for speed in SpeedStore(tmp_path / "runs").read("small")} == {"digits_vit"}
    alone = pruneboard_here(*command, "--model", "digits_vgg", cwd=tmp_path)
    assert alone.returncode == 1
    assert "Nothing was measured: every criterion declined or network failed." in alone.stdout


def test_the_printed_table_is_of_this_machine(small, quick, tmp_path):
    command = ("speed", small, "--device", "cpu", "--batch-size", 1, "--criterion", "magnitude", "--rate", 0.5)
    command = (*command, "--model", "digits_vgg", "--threads")
    assert pruneboard_here(*command, 1, cwd=tmp_path).returncode == 0
    store = SpeedStore(tmp_path / "runs")
    (measured,) = store.read("small")
    others = [{"device": "cpu other"}, {"rate": 0.9, "threads": 2}, {"seed": 7}]
    store.add("small", [dataclasses.replace(measured, **change) for change in others])
    done = pruneboard_here(*command, 1, cwd=tmp_path)

    assert done.stdout.count("digits_vgg filters") == 1
    assert f"measured on {measured.hardware}:" in done.stdout
    assert "cpu other" not in done.stdout


def test_publishing_adds_to_what_is_published(small, quick, tmp_path):
    other = _speed(device="cpu other")
    SpeedStore(tmp_path / "results").add("small", [other])
    done = pruneboard_here(
        *("speed", small, "--model", "digits_vgg", "--criterion", "magnitude", "--rate", 0.5, "--publish"),
        *("--device", "cpu", "--batch-size", 1),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    published = SpeedStore(tmp_path / "results").read("small")

    assert other in published
    assert len(published) == 2


def test_the_size_in_the_table_is_that_of_the_rows(small, quick, tmp_path):
    pruneboard_here("run", small, "--model", "digits_vgg", "--criterion", "magnitude", "--workers", 0, cwd=tmp_path)
    pruneboard_here(
        *("speed", small, "--model", "digits_vgg", "--criterion", "magnitude", "--batch-size", 1, "--device", "cpu"),
        cwd=tmp_path,
    )
    import pandas as pd

    rows = pd.read_parquet(next((tmp_path / "runs" / "small").glob("*.parquet")))
    counted = {r.rate: (r.params_left, r.macs_left) for r in rows.itertuples() if r.shots == 2}
    assert {s.rate: (s.params, s.macs) for s in SpeedStore(tmp_path / "runs").read("small")} == counted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none",), "there is no suite `none`"),
        (("digits", "--model", "digits_vgq"), "there is no model in suite `digits`: `digits_vgq`"),
        (("digits", "--criterion", "taylr"), "there is no criterion in suite `digits`: `taylr`"),
        (("digits", "--rate", 1.0), "`--rate` must be in [0, 1), got 1"),
        (("digits", "--device", "tpu"), "`--device` must be a usable device"),
    ],
)
def test_bad_input_is_one_message(arguments, message, tmp_path):
    done = pruneboard_here("speed", *arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_table_is_read_as_it_was_written_and_holds_each_cell_once(tmp_path):
    store = SpeedStore(tmp_path)
    first, second = _speed(), _speed(batch_size=64, latency_seconds=1 / 3)
    path = store.add("digits", [second, first])
    assert store.read("digits") == [first, second]
    newer = dataclasses.replace(first, latency_seconds=0.5)
    before = path.read_bytes()
    store.add("digits", [newer])
    assert store.read("digits") == [newer, second]
    store.add("digits", [first])
    assert path.read_bytes() == before
    assert SpeedStore(tmp_path / "none").read("digits") == []


@pytest.mark.parametrize(
    ("old", "new"), [("version,", "versions,"), ("\n1,", "\n9,"), (",True,", ",yes,"), (",0.002,", ",fast,")]
)
def test_a_damaged_table_is_refused(old, new, tmp_path):
    store = SpeedStore(tmp_path)
    path = store.add("digits", [_speed()])
    path.write_text(path.read_text().replace(old, new, 1))

    with pytest.raises(StoreError, match="a table of speeds must be whole and of version 1"):
        store.read("digits")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",c,True,", ",True,", "there must be 28 fields, got 27"),
        (",c,True,", ",c,c,True,", "there must be 28 fields, got 29"),
        (",0.002,", ",nan,", "`latency_seconds` must be finite and above 0, got `nan`"),
        (",0.002,", ",inf,", "`latency_seconds` must be finite and above 0, got `inf`"),
        (",0.002,", ",0.0,", "`latency_seconds` must be finite and above 0, got `0.0`"),
        (",0.003,", ",-0.003,", "`unpruned_seconds` must be finite and above 0, got `-0.003`"),
        (",1e-05,", ",-1e-05,", "`latency_iqr_seconds` must be finite and not below 0, got `-1e-05`"),
        (",21,", ",many,", "`n_runs` must be a number, got `many`"),
    ],
)
def test_a_damaged_row_is_named(old, new, said, tmp_path):
    store = SpeedStore(tmp_path)
    path = store.add("digits", [_speed(), _speed(batch_size=64)])
    head, first, second = path.read_text().splitlines(keepends=True)
    assert old in second
    path.write_text(head + first + second.replace(old, new))

    with pytest.raises(StoreError) as caught:
        store.read("digits")
    assert f"`{path}` cannot be used: in row 2 below the names of the columns, {said}; delete it" in str(caught.value)


def test_speeds_of_another_version_of_the_suite_are_left_out():
    suite = make_suite()
    kept = _speed()
    others = [_speed(suite_digest="another"), _speed(model="gone"), _speed(granularity="heads")]

    assert current_speeds([kept, *others], suite) == [kept]


@pytest.mark.parametrize("change", [{"key": "new"}, {"torch": "2.10.0"}, {"pruneboard": "0.2.0"}])
def test_speeds_of_another_key_or_library_go_when_newer_ones_come(change, tmp_path):
    others = [
        _speed(**of_another_group)
        for of_another_group in ({"form": "coupled"}, {"threads": 8}, {"device": "z"}, {"criterion": "random"})
    ]
    old = [_speed(), _speed(rate=0.9), _speed(batch_size=64)]
    new = _speed(**change, rate=0.25, time_utc="2026-01-02T00:00:00+00:00")

    assert set(current_speeds([new, *old, *others], make_suite())) == {new, *others}
    store = SpeedStore(tmp_path)
    store.add("digits", [*old, *others])
    assert len(store.read("digits")) == 7
    store.add("digits", [new])
    assert set(store.read("digits")) == {new, *others}
    # What is published from an older run folder does not stand in for what was measured later.
    store.add("digits", [_speed(rate=0.75)])
    assert set(store.read("digits")) == {new, *others}


def test_the_page_has_a_table_for_each_machine_and_none_without_measurements(tmp_path):
    suite = make_suite()
    rows = make_rows(suite, criteria=("taylor", "random"))
    speeds = [_speed(), _speed(batch_size=64, speedup=2.25), _speed(rate=0.0, speedup=1.0), _speed(threads=8)]
    build_site(
        rows, [suite], tmp_path / "with", sources={"digits": "made up"}, extras=Extras(speeds={"digits": speeds})
    )
    page = (tmp_path / "with" / "suites" / "digits.html").read_text()

    assert page.count("Measured speed") >= 2
    assert "On cpu &lt;Fast&gt;, 1 thread, PyTorch 2.9.0." in page
    assert "8 threads" in page
    assert "2.25" in page
    assert (tmp_path / "with" / "data" / "digits.speed.csv").exists()
    build_site(rows, [suite], tmp_path / "without", sources={"digits": "made up"})
    page = (tmp_path / "without" / "suites" / "digits.html").read_text()
    assert "Measured speed" not in page
    assert not (tmp_path / "without" / "data" / "digits.speed.csv").exists()


def test_machines_and_batch_sizes_are_told_apart():
    (one, eight) = view_speeds([_speed(), _speed(batch_size=64), _speed(rate=0.9), _speed(threads=8)])

    assert (one.hardware, eight.hardware) == (
        "cpu <Fast>, 1 thread, PyTorch 2.9.0",
        "cpu <Fast>, 8 threads, PyTorch 2.9.0",
    )
    assert one.batch_sizes == (1, 64)
    assert [(line.network.rate, [s is None for s in line.by_batch]) for line in one.lines] == [
        (0.5, [False, False]),
        (0.9, [False, True]),
    ]


def test_published_tables_can_be_read():
    for path in sorted((ROOT / "results").glob("*/speed.csv")):
        assert SpeedStore(ROOT / "results").read(path.parent.name)

"""Everything that published results claim is derived again, and each way of forging them is caught."""

import json
import os
import re
import shutil
import subprocess

import pandas as pd
import pytest

from commands import ROOT, pruneboard, pruneboard_here, write_suite
from pruneboard.benchmark import provenance
from pruneboard.benchmark.cards import CardStore, Statement, claims_of, make_card
from pruneboard.benchmark.errors import StoreError
from pruneboard.benchmark.stats import area_under_curve
from pruneboard.benchmark.store import ResultsStore
from pruneboard.benchmark.suites import _load, load_suite
from pruneboard.benchmark.validation import rerun_faults, sample, statement_faults, validate_folder
from pruneboard.benchmark.validation._cards import card_faults
from pruneboard.benchmark.validation._plain import plain_faults
from pruneboard.benchmark.validation._rows import row_faults

MODELS = {"digits_vgg": ["filters"], "digits_vit": ["heads"]}


@pytest.fixture(scope="module")
def suites(tmp_path_factory):
    """A folder of suites that holds one small suite."""
    folder = tmp_path_factory.mktemp("suites")
    write_suite(folder, models=MODELS, criteria=["random", "magnitude", "taylor"], seeds=[0, 1])
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory, suites):
    """Published results of the suite, with the card of a criterion that it does not list."""
    folder = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_load, "_FOLDER", suites)
        patch.setattr(provenance, "commit", lambda: ("a" * 40, True))
        for criteria in ([], ["--criterion", "activation"]):
            done = pruneboard_here("run", "small", "--workers", 0, *criteria, cwd=folder)
            assert done.returncode == 0, done.stderr
        assert pruneboard_here("table", "small", "--publish", cwd=folder).returncode == 0
        suite, store = load_suite(suites / "small.toml"), CardStore(folder / "results")
        rows = ResultsStore(folder / "results").read_criterion("small", "activation")
        statement = Statement(author="A. Uthor", licence="MIT", url="", code="builtin", summary="A")
        store.write(make_card(rows, suite, statement, store.table_paths("small", "activation")))
    return folder / "results"


@pytest.fixture
def results(tmp_path, measured, suites, monkeypatch):
    """A copy of the results, to be attacked."""
    monkeypatch.setattr(_load, "_FOLDER", suites)
    shutil.copytree(measured, tmp_path / "results")
    return tmp_path / "results"


def errors(results):
    """What validation finds wrong, by the name of the file."""
    return [(finding.path.name, finding.message) for finding in validate_folder(results).errors]


def edit(path, change):
    """Change a table as its forger would, and leave everything else as it is."""
    table = pd.read_csv(path, dtype="str", keep_default_na=False)
    change(table).to_csv(path, index=False, lineterminator="\n")


def assign(where, column, value):
    def change(table):
        rows = [all(str(line[name]) == str(given) for name, given in where.items()) for _, line in table.iterrows()]
        assert any(rows)
        table.loc[rows, column] = value(table.loc[rows, column]).astype("str") if callable(value) else value
        return table

    return change


def drop(where):
    def change(table):
        return table[[not all(str(line[k]) == str(v) for k, v in where.items()) for _, line in table.iterrows()]]

    return change


def test_honest_results_are_valid(results):
    report = validate_folder(results)

    assert report.findings == []
    assert report.n_jobs == {"small": 16}
    assert report.n_rows == {"small": 96}


@pytest.mark.slow
def test_all_published_results_are_valid():
    """Those of this repository, through the command line; without torch, so that it starts fast."""
    done = pruneboard("validate", "results", cwd=ROOT)

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r"Valid, \d+ warnings?\.", done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("top1", "rule"),
    [
        ("0.98765", "`top1` must be a whole number of hits among `n_images`, got `top1` = 0.98765"),
        ("1.5", "`top1` must be in [0, 1], got `top1` = 1.5"),
        ("", "a job of status ok must have every number, but `top1` is empty"),
    ],
)
def test_a_forged_number_is_caught(results, top1, rule):
    edit(results / "small" / "taylor.csv", assign({"shots": 2, "rate": 0.6}, "top1", top1))

    assert any(path == "taylor.jobs.csv" and rule in message for path, message in errors(results))


def test_a_seed_that_was_left_out_is_caught(results):
    jobs = pd.read_csv(results / "small" / "taylor.jobs.csv")
    bad = jobs[(jobs["model"] == "digits_vgg") & (jobs["seed"] == 1)]["key"].iloc[0]
    edit(results / "small" / "taylor.jobs.csv", drop({"key": bad}))
    edit(results / "small" / "taylor.csv", drop({"key": bad[:16]}))

    assert (
        "taylor.jobs.csv",
        "all 2 seeds must be there, but seed 1 is missing of digits_vgg / filters; run the suite to its end and "
        "publish it again. No seed may be left out.",
    ) in errors(results)


def test_a_network_that_was_left_out_is_caught(results):
    jobs = pd.read_csv(results / "small" / "taylor.jobs.csv")
    for key in jobs.loc[jobs["model"] == "digits_vit", "key"]:
        edit(results / "small" / "taylor.jobs.csv", drop({"key": key}))
        edit(results / "small" / "taylor.csv", drop({"key": key[:16]}))

    assert "but `taylor` lacks digits_vit / heads" in errors(results)[0][1]


def test_a_rate_that_was_left_out_is_caught(results):
    edit(results / "small" / "taylor.csv", drop({"rate": 0.6, "shots": 1}))

    assert "a job must have each of its 6 points once" in errors(results)[0][1]
    assert "are missing, such as shots 1, rate 0.6" in errors(results)[0][1]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("weights_digest", "0" * 64),
        ("data_digest", "1" * 64),
        ("criterion_digest", "2" * 64),
        ("parameters", '{"absolute": "none", "per_layer": "l2", "target": "loss"}'),
        ("seed", "7"),
    ],
)
def test_an_edited_digest_parameter_or_seed_contradicts_the_key(results, column, value):
    edit(results / "small" / "taylor.jobs.csv", assign({"model": "digits_vgg", "seed": 0}, column, value))
    found = errors(results)

    assert any(
        path == "taylor.jobs.csv" and "a digest, a parameter, the seed or the key was edited" in text
        for path, text in found
    )


def test_weights_of_ones_own_contradict_the_other_tables_even_with_matching_keys(results):
    """Rows that were honestly measured with other weights: their keys are right, and nobody else has these weights."""
    from pruneboard.benchmark.schema import JobIdentity

    path, points = results / "small" / "taylor.jobs.csv", results / "small" / "taylor.csv"
    jobs = pd.read_csv(path)
    table = pd.read_csv(points, dtype="str")
    for index, line in jobs[jobs["model"] == "digits_vgg"].iterrows():
        identity = JobIdentity(
            suite=line["suite_digest"],
            data=line["data_digest"],
            model=(line["model"], 1, "0" * 64),
            granularity=line["granularity"],
            criterion=(line["criterion"], int(line["criterion_version"]), line["criterion_digest"]),
            parameters=json.loads(line["parameters"]),
            seed=int(line["seed"]),
        )
        table.loc[table["key"] == line["key"][:16], "key"] = identity.key[:16]
        jobs.loc[index, ["key", "weights_digest"]] = [identity.key, "0" * 64]
    jobs.to_csv(path, index=False)
    table.to_csv(points, index=False)
    ((file, message),) = errors(results)

    assert file == "taylor.jobs.csv"
    assert message.startswith("all rows of digits_vgg must share one `weights_digest`, but it is 0000")


def test_rows_of_another_version_of_the_suite_are_caught(results):
    edit(results / "small" / "taylor.jobs.csv", assign({}, "suite_version", "2"))

    assert "rows must be of the present version 1 of suite `small`" in errors(results)[0][1]


def test_rows_that_no_commit_can_give_again_are_caught(results):
    edit(results / "small" / "taylor.jobs.csv", assign({"seed": 0}, "clean", "False"))

    assert "published rows must be measured with exactly one commit" in errors(results)[0][1]
    assert "`clean` is 'False' in " in errors(results)[0][1]


def test_an_unpruned_network_that_is_better_than_elsewhere_is_caught(results):
    edit(results / "small" / "taylor.csv", assign({"rate": 0.0}, "top1", "1.0"))
    edit(results / "small" / "taylor.csv", assign({"rate": 0.0}, "top5", "1.0"))

    assert any("must share one `top1`, but it is 1.0 here" in message for _, message in errors(results))


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("n_units_removed", "1", "`n_units_removed` must be floor(`rate` * `n_units`)"),
        ("params_left", "10000000", "`params_left` must be in [0, total]"),
        ("cross_entropy", "-1", "`cross_entropy` must be finite and not below 0"),
        ("units_left", "1 2 3", "`units_left` whole numbers, one for each layer"),
    ],
)
def test_sizes_and_losses_that_cannot_be_are_caught(results, suites, column, value, rule):
    edit(results / "small" / "magnitude.csv", assign({"rate": 0.3, "shots": 1}, column, value))
    rows, suite = ResultsStore(results).read_criterion("small", "magnitude"), load_suite(suites / "small.toml")

    assert any(rule in message for message in row_faults(rows, suite))


def test_a_criterion_without_images_that_improves_with_shots_is_caught(results):
    table = pd.read_csv(results / "small" / "magnitude.csv")
    n_images = int(table["n_images"].iloc[0])
    change = assign({"rate": 0.6, "shots": 2}, "top1", lambda old: old.astype(float) - 1 / n_images)
    edit(results / "small" / "magnitude.csv", change)

    assert any("a criterion that needs nothing gives the same with all shots" in text for _, text in errors(results))


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("author", " ", "a card must name its `author`, but it is empty"),
        ("code", "file a.py", "a criterion from elsewhere (`file a.py`) must say where its code can be had"),
        ("licence", "=1", "texts of a card must be plain, but it begins with `=`"),
        ("measured_with", {}, "`measured_with` of a card must be what its tables say"),
        ("criterion_digest", "3" * 64, "`criterion_digest` of a card must be what its tables say"),
        ("hardware", ["cuda H100"], "`hardware` of a card must be what its tables say"),
        ("weights", {"digits_vgg": "4" * 64}, "`weights` of a card must be what its tables say"),
        ("n_jobs", {"ok": 3}, "`n_jobs` of a card must be what its tables say"),
        ("n_jobs", {"ok": 2, "failed": 2}, "every job of a submission must succeed or be declined, but 2 failed"),
        ("tables", {"activation.csv": "5" * 64}, "`tables` of a card must be what its tables say"),
        ("claims", [], "`claims` of a card must be what its tables say"),
    ],
)
def test_an_edited_card_is_caught(results, suites, field, value, found):
    path = results / "small" / "activation.card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    store, rows = CardStore(results), ResultsStore(results).read_criterion("small", "activation")
    faults = card_faults(store.read_one("small", "activation"), rows, load_suite(suites / "small.toml"), store)

    assert any(found in message for message in faults)


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("criterion", "other", "a submission card must be named like its criterion"),
        ("format", 2, "a submission card must be a JSON file of the known fields"),
        ("clean", "yes", "`clean` must be of type bool, got 'yes'"),
        ("colour", "red", "a submission card must be a JSON file of the known fields"),
    ],
)
def test_a_card_of_another_form_is_refused(results, field, value, found):
    path = results / "small" / "activation.card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(StoreError, match=found):
        CardStore(results).read("small")


def test_a_claim_that_is_too_good_is_caught(results):
    path = results / "small" / "activation.card.json"
    card = json.loads(path.read_text())
    card["claims"][0]["a_pr"] += 0.01
    path.write_text(json.dumps(card))

    assert "`claims` of a card must be what its tables say" in errors(results)[0][1]


def test_a_criterion_that_the_suite_does_not_list_must_have_a_card(results):
    (results / "small" / "activation.card.json").unlink()

    assert errors(results)[0] == (
        "activation.card.json",
        "a criterion that suite `small` does not list must have a submission card; write it with `pruneboard submit "
        "activation`.",
    )


def test_claims_are_the_plain_means_over_all_curves(results):
    """Derived from the areas by hand."""
    rows = ResultsStore(results).read_criterion("small", "activation")
    areas = area_under_curve(rows)
    claims = {claim.granularity: claim for claim in claims_of(rows)}

    for granularity, part in areas.groupby("granularity"):
        assert claims[granularity].a_pr == pytest.approx(part["a_pr"].mean(), abs=1e-6)
        assert claims[granularity].n_cells == len(part) == 4


def test_files_that_are_damaged_or_lack_their_partner_are_named(results):
    own = results / "small"
    (own / "taylor.csv").unlink()
    (own / "random.jobs.csv").write_text("nonsense\n1\n")
    (own / "alone.csv").write_text("key\n")
    found = dict(errors(results))

    assert "must be a CSV file in UTF-8, but this one is not: " in found["taylor.csv"]
    assert "random.jobs.csv" in found
    assert found["alone.csv"] == "a table of points must have its table of jobs, but there is no `alone.jobs.csv`."


def test_a_job_that_is_there_twice_is_caught(results):
    edit(results / "small" / "taylor.jobs.csv", lambda table: pd.concat([table, table.iloc[:1]]))

    assert "must have no more lines than its suite has cells, 4, but it has more" in errors(results)[0][1]


def test_the_command_names_the_file_and_ends_with_status_1(results):
    edit(results / "small" / "taylor.csv", assign({"shots": 2, "rate": 0.6}, "top1", "0.98765"))
    done = pruneboard_here("validate", "results", "--report", "report.json", cwd=results.parent)
    report = json.loads((results.parent / "report.json").read_text())

    assert done.returncode == 1
    assert "error: results/small/taylor.jobs.csv: `top1` must be a whole number of hits" in done.stdout
    assert "Invalid: " in done.stdout
    assert report["valid"] is False
    assert report["findings"][0]["level"] == "error"
    assert pruneboard_here("validate", "results/small/magnitude.csv", cwd=results.parent).returncode == 0
    assert pruneboard_here("validate", "results/small", cwd=results.parent).returncode == 1
    nothing = pruneboard_here("validate", "nowhere", cwd=results.parent)
    assert nothing.returncode == 2
    assert "validation needs a results folder" in nothing.stderr


def test_a_forgery_that_keeps_every_rule_is_caught_by_running_again(results, monkeypatch):
    """Numbers, ranking and everything else fit together; only the network knows better."""
    table = pd.read_csv(results / "small" / "taylor.csv")
    n_images = int(table["n_images"].iloc[0])
    for shots in (1, 2):
        change = assign({"rate": 0.6, "shots": shots}, "top1", lambda old: old.astype(float) + 9 / n_images)
        edit(results / "small" / "taylor.csv", change)
        edit(results / "small" / "taylor.csv", assign({"rate": 0.6, "shots": shots}, "top5", "1.0"))
    assert pruneboard_here("validate", "results", cwd=results.parent).returncode == 0
    options = ("--rerun", 2, "--workers", 0, "--device", "cpu")
    done = pruneboard_here("validate", "results/small/taylor.csv", *options, cwd=results.parent)
    honest = pruneboard_here("validate", "results/small/magnitude.csv", *options, cwd=results.parent)

    assert done.returncode == 1
    assert "`top1` must be what the same job gives again on the same device" in done.stdout
    assert honest.returncode == 0, honest.stdout
    assert "2 jobs run again (seed 0), 2 of them with the very key that was published; 2 agree." in honest.stdout


def test_the_sample_is_random_seeded_and_no_larger_than_what_is_there(results):
    rows = ResultsStore(results).read("small")
    keys = set(rows["key"])

    assert sample(rows, 5, 0) == sample(rows, 5, 0)
    assert sample(rows, 5, 0) != sample(rows, 5, 1)
    assert len(sample(rows, 5, 0)) == 5
    assert set(sample(rows, 100, 0)) == keys
    assert sample(rows.assign(status="failed"), 5, 0) == []


def test_another_device_may_be_off_by_the_stated_tolerance_only(results):
    rows = ResultsStore(results).read_criterion("small", "taylor")
    job = rows[rows["key"] == rows["key"].iloc[0]]
    elsewhere = job.assign(device="cuda H100")

    assert list(rerun_faults(job, job)) == []
    assert list(rerun_faults(job, elsewhere.assign(top1=job["top1"] - 0.009))) == []
    assert "on another device A_PR must be within 0.01" in next(
        rerun_faults(job, elsewhere.assign(top1=job["top1"] - 0.011))
    )
    assert "`top1` must be what the same job gives again" in next(
        rerun_faults(job, job.assign(top1=job["top1"] - 1e-9))
    )
    loss = job["cross_entropy"]
    assert list(rerun_faults(job, job.assign(cross_entropy=loss * (1 + 1e-8)))) == []
    assert "`cross_entropy` must be" in next(rerun_faults(job, job.assign(cross_entropy=loss * 1.01)))
    assert "must end as it was published, ok, but" in next(rerun_faults(job, job.assign(status="failed", reason="no")))
    assert "`n_units_removed` must be" in next(rerun_faults(job, elsewhere.assign(n_units_removed=3)))


def test_links_devices_and_giant_files_are_not_even_read(results, tmp_path):
    own = results / "small"
    (own / "endless.jobs.csv").symlink_to("/dev/zero")
    os.mkfifo(own / "waits.csv")
    with (own / "huge.csv").open("wb") as file:
        file.truncate(65 * 2**20)
    found = dict(errors(results))

    assert found == {
        "endless.jobs.csv": "results must be files of their own, but this is a link to `/dev/zero`; put it here.",
        "waits.csv": "results must be plain files, but this is a device, pipe or socket; remove it.",
        "huge.csv": "a file of results must have at most 64 MiB, got 65 MiB; write it again with `pruneboard table "
        "--publish`.",
    }
    shutil.move(own, tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    assert errors(results)[0][1].startswith("results must be files of their own, but this is a link to `")


@pytest.mark.parametrize("name", ["con", "Taylor", "tаylor", "<img src=x onerror=alert(1)>", "=cmd", "x" * 65, "speed"])
def test_a_table_with_the_name_of_no_criterion_is_caught(results, name):
    for end in (".csv", ".jobs.csv"):
        shutil.copy(results / "small" / f"taylor{end}", results / "small" / f"{name}{end}")

    assert any(
        path == f"{name}.jobs.csv" and "the name of a criterion must be" in text for path, text in errors(results)
    )


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("device", "=HYPERLINK(1)", "it begins with `=`, which spreadsheets take for a formula: `device` is"),
        ("device", "cpu\x1b[2J", "it holds '\\x1b', which cannot be printed"),
        ("device", "cpu\u202eUPG", "it holds '\\u202e', which cannot be printed"),
        ("device", 2000 * "x", "it has 2000 characters, more than 1000"),
        ("score_seconds", "inf", "`score_seconds` must be finite and not below 0, got inf"),
        ("score_seconds", "-1", "`score_seconds` must be finite and not below 0, got -1"),
        ("job_seconds", "-0.1", "`job_seconds` must be finite and not below 0"),
        ("threads", "1000000", "`threads` must be from 1 to 1024, got 1000000"),
        ("time_utc", "yesterday", "`time_utc` must be a time of UTC such as"),
        ("time_utc", "2026-01-01T00:00:00+02:00", "`time_utc` must be a time of UTC such as"),
        ("commit", "main", "published rows must be measured with exactly one commit"),
    ],
)
def test_texts_and_costs_that_no_run_writes_are_caught(results, suites, column, value, rule):
    edit(results / "small" / "taylor.jobs.csv", assign({"seed": 0}, column, value))
    rows, suite = ResultsStore(results).read_criterion("small", "taylor"), load_suite(suites / "small.toml")
    found = [*plain_faults(rows), *row_faults(rows, suite)]

    assert any(rule in message for message in found)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        *[
            (".jobs.csv", column, value)
            for column in ("seed", "threads", "suite_version")
            for value in ("", "inf", "1.5")
        ],
        *[(".jobs.csv", "criterion_version", value) for value in ("", "9" * 30)],
        *[(".jobs.csv", "schema_version", value) for value in ("", "99", "1e309", "[")],
        *[(".csv", "n_images", value) for value in ("1e309", "9" * 30, "x", "1.5")],
        *[(".csv", "top1", value) for value in ("x", "=1")],
    ],
)
def test_values_of_no_type_are_an_error_and_no_traceback(results, table, column, value):
    edit(results / "small" / f"taylor{table}", assign({}, column, value))
    with pytest.raises(StoreError, match="table"):
        ResultsStore(results).read_criterion("small", "taylor")


@pytest.mark.parametrize(
    ("column", "value"), [("parameters", 5000 * "["), ("layers", 5000 * "["), ("parameters", "no JSON"), ("key", "")]
)
def test_texts_that_are_no_json_are_an_error_and_no_traceback(results, suites, column, value):
    edit(results / "small" / "taylor.jobs.csv", assign({"seed": 0, "model": "digits_vgg"}, column, value))
    assert any(path == "taylor.jobs.csv" for path, _ in errors(results))


@pytest.mark.parametrize("status", ["failed", "unsupported"])
def test_a_bad_seed_that_is_said_to_have_given_no_number_is_caught(results, status):
    """The job stays, with a status that takes its numbers away."""
    path = results / "small" / "taylor.jobs.csv"
    jobs = pd.read_csv(path)
    bad = jobs[(jobs["model"] == "digits_vgg") & (jobs["seed"] == 1)]["key"].iloc[0]
    edit(path, assign({"key": bad}, "status", status))
    edit(path, assign({"key": bad}, "reason", "no memory"))
    edit(results / "small" / "taylor.csv", drop({"key": bad[:16]}))

    assert (
        "taylor.jobs.csv",
        f"all seeds of a network must end alike, but digits_vgg / filters / taylor / seed 1 is {status} (no memory) "
        "and 1 of 2 seeds are not; run it again. No seed may be left out.",
    ) in errors(results)


def test_a_number_of_shots_that_was_left_out_is_caught(results):
    edit(results / "small" / "taylor.csv", drop({"shots": 2}))

    assert "are missing, such as shots 2, rate 0" in errors(results)[0][1]


def test_points_that_are_there_twice_are_caught(results):
    edit(results / "small" / "taylor.csv", lambda table: pd.concat([table, table.iloc[:2]]))

    assert "must have no more lines than its suite has cells, 24, but it has more" in errors(results)[0][1]


def test_a_network_that_is_smaller_before_anything_is_removed_is_caught(results, suites):
    for column in ("params_left", "macs_left"):
        edit(results / "small" / "taylor.csv", assign({"rate": 0.0}, column, "5"))
    rows = ResultsStore(results).read_criterion("small", "taylor")

    assert (
        sum("at rate 0 everything is left" in text for text in row_faults(rows, load_suite(suites / "small.toml"))) == 2
    )


def test_a_commit_that_this_checkout_does_not_hold_is_told(results):
    """As long as it holds others, so that its history is that of the rows."""
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    if not head:
        pytest.skip("this is no checkout")
    assert validate_folder(results).warnings == []
    edit(results / "small" / "taylor.jobs.csv", assign({}, "commit", head))
    warned = {finding.path.name: finding.message for finding in validate_folder(results).warnings}

    assert warned.keys() == {f"{name}.jobs.csv" for name in ("activation", "magnitude", "random")}
    assert warned["random.jobs.csv"].startswith("rows must name a commit that others can get, but aaaaaaaaaaaa is not")


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("author", "=cmd|' /C calc'!A0", "it begins with `=`, which spreadsheets take for a formula"),
        ("author", "A\nB", "it holds '\\n', which cannot be printed"),
        ("summary", 501 * "x", "it has 501 characters, more than 500"),
        ("url", "javascript:alert(1)", "`url` must be an address that begins with https:// or http://"),
        ("url", "https://", "`url` must be an address that begins with https:// or http://"),
        ("code", "mine", "`code` must be `builtin`, `package NAME VERSION` or `file NAME`, got 'mine'"),
        ("licence", "", "a card must name its `licence`, but it is empty"),
    ],
)
def test_what_an_author_says_is_plain(field, value, fault):
    said = {
        "author": "Łukasz Ø",
        "licence": "MIT",
        "url": "https://github.com/author/a",
        "code": "file a.py",
        "summary": "A",
    }

    assert list(statement_faults(Statement(**said))) == []
    assert fault in next(statement_faults(Statement(**said | {field: value})))


def test_a_card_that_is_nested_without_end_is_damaged(results):
    (results / "small" / "activation.card.json").write_text('{"format": ' + 100_000 * "[")
    with pytest.raises(StoreError, match="a submission card must be a JSON file"):
        CardStore(results).read("small")


def test_jobs_in_another_precision_are_run_again_like_those_of_another_device(results):
    """Or the precision would be a way to be never chosen."""
    rows = ResultsStore(results).read_criterion("small", "taylor")
    rows = rows.assign(evaluation="compact in bf16")
    job = rows[rows["key"] == rows["key"].iloc[0]]
    now = job.assign(evaluation="compact")

    assert len(sample(rows, 100, 0)) == rows["key"].nunique()
    assert list(rerun_faults(job, now.assign(top1=job["top1"] - 0.009))) == []
    assert "A_PR must be within 0.01" in next(rerun_faults(job, now.assign(top1=job["top1"] - 0.011)))


def test_faults_of_other_tables_do_not_keep_a_table_from_being_run_again(results):
    edit(results / "small" / "random.csv", assign({"shots": 2, "rate": 0.6}, "top1", "0.98765"))
    options = ("--rerun", 1, "--workers", 0, "--device", "cpu")
    done = pruneboard_here("validate", "results/small/magnitude.csv", *options, cwd=results.parent)
    broken = pruneboard_here("validate", "results/small/random.csv", *options, cwd=results.parent)

    assert "1 jobs run again (seed 0)" in done.stdout
    assert broken.returncode == 1
    assert "No job is run again, because what is published is broken already." in broken.stdout


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("protocol", "iterative", "rows must be of the suite's protocol, one_shot; `protocol` is 'iterative'"),
        ("finetuning", "{}", "rows must be of the suite's recipe of fine-tuning; `finetuning` is '{}'"),
        ("task", '{"n_classes": 3}', "rows must be of the suite's task"),
        ("dataset", "cifar10", "rows must be of a data set that the suite accepts for the network"),
        ("criterion_needs", "little", "`criterion_needs` must be one of nothing, images, labels"),
        ("criterion_family", "best", "`criterion_family` must be one of control, weights"),
        ("evaluation", "by eye", "`evaluation` must be `compact`"),
        ("tuned_trials", "7", "only tuned rows have trials and images of tuning"),
        ("parameters", "1e309", "a job's key must be the digest of what decided its result"),
    ],
)
def test_what_no_key_covers_is_held_against_the_suite(results, suites, column, value, rule):
    edit(results / "small" / "taylor.jobs.csv", assign({"seed": 0, "model": "digits_vgg"}, column, value))
    rows, suite = ResultsStore(results).read_criterion("small", "taylor"), load_suite(suites / "small.toml")

    assert any(rule in message for message in row_faults(rows, suite))


@pytest.mark.parametrize("rate", ["inf", "1.5", "0.3000001"])
def test_a_rate_of_no_suite_is_caught(results, suites, rate):
    edit(results / "small" / "taylor.csv", assign({"rate": 0.3, "shots": 1}, "rate", rate))
    rows, suite = ResultsStore(results).read_criterion("small", "taylor"), load_suite(suites / "small.toml")

    assert any("`rate` must be one of the suite's, got " in message for message in row_faults(rows, suite))


@pytest.mark.parametrize(
    ("where", "column", "value", "rule"),
    [
        ({"seed": 0}, "criterion_needs", "images", "a table must hold one `criterion_needs`, got images and labels"),
        ({"seed": 0}, "criterion_source", "mine", "a table must hold one `criterion_source`"),
        ({}, "model_family", "ViT", "all rows of digits_vgg must share one `model_family`, but it is ViT here"),
    ],
)
def test_what_is_said_of_a_criterion_or_network_is_the_same_everywhere(results, where, column, value, rule):
    edit(results / "small" / "taylor.jobs.csv", assign(where, column, value))

    assert any(rule in message for message in dict.fromkeys(text for _, text in errors(results)))


def test_what_a_job_says_of_itself_must_be_so_when_it_is_run_again(results):
    rows = ResultsStore(results).read_criterion("small", "taylor")
    job = rows[rows["key"] == rows["key"].iloc[0]]
    elsewhere = job.assign(device="cuda H100")

    assert list(rerun_faults(job, elsewhere.assign(params_left=job["params_left"] + 1))) == []
    assert "`criterion_needs` must be what the job says now, labels, but nothing is published" in next(
        rerun_faults(job.assign(criterion_needs="nothing"), job)
    )
    assert "on another device `macs_left` must be within 0.05 of `macs_total`" in next(
        rerun_faults(job.assign(macs_left=0), elsewhere)
    )

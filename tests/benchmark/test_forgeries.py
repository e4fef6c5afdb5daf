"""Lies in published tables, one of each kind; `tests/support/forge_tables.py` tries some hundreds."""

import math
import site
import subprocess
import sys
import textwrap
import time
from pathlib import PurePosixPath

import numpy as np
import pytest

from commands import ROOT, pruneboard_here
from forge_tables import SUITE, TUNED, Forge, base, forgeries
from pruneboard.benchmark import plugins
from pruneboard.benchmark.cards import Statement
from pruneboard.benchmark.schema import parse_json
from pruneboard.benchmark.store import ResultsStore
from pruneboard.benchmark.validation import drift, drift_fault, reference_fault, statement_faults
from pruneboard.benchmark.validation._plain import address_fault, text_fault, time_fault
from pruneboard.benchmark.validation._sources import _declared, present_criteria

# Those that a quick look at a table, its schema or its card would not find.
QUICK = (
    "taylor never loses, with its old cross-entropy",
    "units of two layers swapped",
    "what taylor declares: needs",
    "a source of another commit",
    "layers emptied",
    "all curves of lrp_epsilon",
    "ten shots of lrp_epsilon for all",
    "an extra column in taylor.csv",
    "tables named '.champion'",
    "author twice",
    "winner of an outcome",
)


@pytest.fixture(scope="module")
def forge(tmp_path_factory):
    return Forge(tmp_path_factory.mktemp("forge"))


@pytest.mark.parametrize("name", QUICK)
def test_a_lie_is_caught(forge, name):
    (forgery,) = [forgery for forgery in forgeries() if forgery.name == name]

    assert forge.errors(forgery)


@pytest.mark.parametrize("suite", [SUITE, TUNED])
def test_the_tables_that_are_forged_are_valid_before(forge, suite):
    assert forge.errors(None, suite) == []


def test_there_are_hundreds_of_lies_of_many_kinds_and_who_catches_them_is_said():
    found = forgeries()

    assert len({(forgery.kind, forgery.name) for forgery in found}) == len(found) >= 300
    assert len({forgery.kind for forgery in found}) >= 10
    assert {forgery.caught_by for forgery in found} == {"validate", "rerun", "nobody"}


def test_sixty_mebibytes_of_repeated_rows_are_refused_at_once(forge):
    (giant,) = [forgery for forgery in forgeries() if forgery.name == "60 MiB of repeated rows"]
    started = time.process_time()
    errors = forge.errors(giant)

    assert "must have no more lines than its suite has cells, 300, but it has more" in errors[0]
    assert time.process_time() - started < 20


def test_hidden_tables_and_cards_hold_no_results_for_anyone(tmp_path):
    base(tmp_path, SUITE)
    store = ResultsStore(tmp_path)
    before = store.read(SUITE)
    for end in (".csv", ".jobs.csv", ".card.json"):
        (tmp_path / SUITE / f".hidden{end}").write_text((tmp_path / SUITE / f"champion{end}").read_text())

    assert ".hidden" not in store.criteria(SUITE)
    assert len(store.read(SUITE)) == len(before)


HOSTILE = "print('HOSTILE', flush=True)\nimport os\nos._exit(0)\n"


def test_nothing_of_a_checkouts_plugins_is_run_or_imported(tmp_path):
    """In a copy of the engine beside hostile criteria and models, without what this environment would import."""
    for name in ("benchmark", "site/templates", "site/assets"):
        subprocess.run(["cp", "-r", "--parents", name, str(tmp_path)], cwd=ROOT, check=True)
    (tmp_path / "packages" / "pruneboard").mkdir(parents=True)
    for name in ("benchmark", "criteria", "models"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / "packages" / "pruneboard" / name).symlink_to(tmp_path / name)
    for name in ("criteria/__init__", "criteria/evil", "criteria/taylor", "models/__init__", "models/mobilenet"):
        (tmp_path / f"{name}.py").write_text(HOSTILE)
    base(tmp_path / "results", SUITE)
    code = f"""
        import sys
        sys.path[:0] = [{str(tmp_path / "packages")!r}]
        sys.path += {[path for path in (*site.getsitepackages(), *sys.path) if path.endswith("site-packages")]}
        from pruneboard.benchmark.cli import main
        sys.argv = ["pruneboard", "validate", "results"]
        try:
            main()
        finally:
            foreign = ("pruneboard.criteria", "pruneboard.models", "torch")
            print("imported:", *(name for name in sys.modules if name.startswith(foreign)))
    """
    done = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(code)], cwd=tmp_path, capture_output=True, text=True
    )

    assert "HOSTILE" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr
    assert done.returncode == 1
    for folder in ("criteria", "models"):
        assert (
            f"{tmp_path}/{folder}/__init__.py: `{folder}/` must hold one file or folder for each plugin" in done.stdout
        )


def test_what_is_read_as_text_is_what_is_registered():
    declared, registry = present_criteria(), plugins.criteria()
    own = [name for name in registry.names() if registry.origin(name) == "builtin"]

    assert sorted(declared) == own
    for name in own:
        criterion, found = registry.get(name), declared[name]
        said = (criterion.version, criterion.family, criterion.needs, criterion.source)
        assert (found.version, found.family, found.needs, found.source) == said
        assert found.digest == plugins.criterion_digest(criterion)


@pytest.mark.parametrize(
    "text", [b"\xff", b"\0", b"class A:", b"(" * 10_000, b"-" * 100_000 + b"1", b"class A:\n    name = f()\n", b""]
)
def test_sources_that_are_no_declarations_declare_nothing(text):
    assert _declared({PurePosixPath("a.py"): text}) == {}


def test_jobs_whose_data_would_have_to_be_fetched_can_be_left_out(tmp_path):
    base(tmp_path / "results", SUITE)
    done = pruneboard_here("validate", f"results/{SUITE}/taylor.csv", "--rerun", 2, "--embedded", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "not run again, as their data do not come with the code: jobs on imagenette" in done.stdout
    assert done.stdout.splitlines()[-1] == "Valid, 0 warnings."


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("\uff1dcmd", "spreadsheets take for a formula"),
        ("\ufe66cmd", "spreadsheets take for a formula"),
        (" cpu", "begins or ends with a blank"),
        ("cpu ", "begins or ends with a blank"),
        ("e" + "\u0301" * 4, "piles up combining marks"),
        ("\u0301a", "piles up combining marks"),
        ("\u3164", "cannot be printed"),
        ("\u2800", "cannot be printed"),
        ("a\ufe0f", "cannot be printed"),
    ],
)
def test_texts_that_look_like_others_are_refused(text, fault):
    assert fault in text_fault(text)


@pytest.mark.parametrize(
    "text", ["Łukasz Ø", "Nguyễn Văn A", "e\u0301", "हिन्दी", "cpu AMD EPYC", "2.15.0+cu132", "a = b", ""]
)
def test_honest_texts_are_left_alone(text):
    assert text_fault(text) is None


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://github.com@evil.org/a", "nothing before an `@`"),
        ("https://user:word@evil.org", "nothing before an `@`"),
        ("https://example.org/mine", "not the placeholder `example.org`"),
        ("https://www.EXAMPLE.com", "not the placeholder"),
        ("https://a.test", "not the placeholder"),
        ("javascript:alert(1)", "begins with https:// or http://"),
        ("https://\u0430pple.com", "plain ASCII"),
        ("https://evil.org\\@github.com", "plain ASCII"),
        ("https://[", "plain ASCII"),
        ("https://a.org/b c", "without blanks"),
    ],
)
def test_addresses_that_mislead_are_refused(url, fault):
    assert fault in address_fault(url)
    assert fault in reference_fault(url)
    said = Statement(author="A", licence="MIT", url=url, code="file a.py", summary="A")
    assert fault in next(statement_faults(said))


def test_addresses_and_dois_are_left_alone():
    assert address_fault("https://git.sr.ht/~author/mine?a=1#b") is None
    assert reference_fault("10.1016/j.patcog.2021.107899") is None


@pytest.mark.parametrize("kind", ["images", "weights", "function"])
def test_the_texts_of_every_skeleton_are_refused_on_a_card(kind):
    lines = (ROOT / "benchmark" / "skeletons" / f"{kind}.py.txt").read_text().splitlines()
    summary = next(line.strip(' "') for line in lines if line.startswith('    """One line'))
    source = next(line.split('"')[1] for line in lines if "source: " in line)
    said = Statement(author="A", licence="MIT", url="", code="builtin", summary=summary)

    assert "got the skeleton's" in next(statement_faults(said))
    assert "placeholder" in reference_fault(source)


def test_times_in_the_future_are_refused():
    assert "must not lie in the future" in time_fault("2999-01-01T00:00:00+00:00")
    assert "must be a time of UTC" in time_fault("2026-01-01T00:00:00")
    assert time_fault("2026-01-01T00:00:00+00:00") is None


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 1}}', '{"a": NaN}', "[Infinity]"])
def test_json_that_readers_take_differently_is_refused(text):
    with pytest.raises(ValueError, match="must be"):
        parse_json(text)


def test_small_lies_in_every_job_show_in_the_mean_and_honest_noise_does_not():
    """The power that the page on submissions states: five hits of 599 more, with the spread of another machine."""
    generator = np.random.default_rng(0)
    spread, lie = 0.002, 5 / 599

    def found(n_jobs, shift):
        draws = generator.normal(shift, spread, (400, n_jobs))
        return np.mean([drift_fault(list(drifts)) is not None for drifts in draws])

    assert found(10, 0.0) <= 0.01
    assert found(5, 0.0) <= 0.01
    assert found(5, lie) >= 0.6
    assert found(10, lie) >= 0.99
    assert found(10, -lie) >= 0.99
    assert drift_fault([lie, lie]) is None, "two jobs say nothing"
    assert "over 5 jobs what is published is +0.0083 off in the mean" in drift_fault([lie] * 5)
    assert drift_fault([]) is drift_fault([0.0005] * 10) is None
    assert math.isclose(lie, 0.00835, abs_tol=1e-4)


def test_the_drift_of_a_job_is_signed_and_none_on_the_same_machine(tmp_path):
    base(tmp_path, SUITE)
    rows = ResultsStore(tmp_path).read_criterion(SUITE, "taylor")
    job = rows[rows["key"] == rows["key"].iloc[0]]
    elsewhere = job.assign(threads=2, top1=job["top1"] - 0.005)

    assert drift(job, job) is None
    assert drift(job, elsewhere) == pytest.approx(0.005)
    assert drift(job.assign(status="unsupported"), elsewhere) is None

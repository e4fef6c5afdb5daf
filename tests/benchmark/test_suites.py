import re
from pathlib import Path

import pytest

from pruneboard.benchmark.errors import SuiteError, UnknownNameError
from pruneboard.benchmark.ranking import n_removed
from pruneboard.benchmark.schema import FineTuning
from pruneboard.benchmark.suites import expand, load_published, load_suite, suite_names, suite_path

DIGITS = suite_path("digits")
TOY = suite_path("toy")


@pytest.fixture
def edited(tmp_path):
    """Return a function that writes digits.toml with one text replaced and gives its path."""

    def edit(old: str, new: str, name: str = "digits.toml") -> Path:
        text = DIGITS.read_text()
        assert text.count(old) >= 1
        path = tmp_path / name
        path.write_text(text.replace(old, new, 1))
        return path

    return edit


def test_digits_has_the_grid_of_the_issue():
    suite = load_suite(DIGITS)

    assert suite.rates == tuple(i / 20 for i in range(20))
    assert suite.shots == (1, 2, 5, 10, 20)
    assert len(suite.seeds) == 5
    assert {m.name: m.granularities for m in suite.models} == {
        "digits_vgg": ("filters",),
        "digits_resnet": ("filters",),
        "digits_vit": ("neurons", "heads"),
    }


def test_expand_is_the_product_of_the_grid_once_each():
    suite = load_suite(DIGITS)
    jobs = expand(suite)
    cells = {(job.model, job.granularity, job.criterion, job.seed) for job in jobs}

    assert len(jobs) == len(cells) == 4 * len(suite.criteria) * 5
    some = expand(suite, models=["digits_vit"], criteria=["taylor"])
    assert {(job.model, job.granularity, job.criterion) for job in some} == {
        ("digits_vit", "neurons", "taylor"),
        ("digits_vit", "heads", "taylor"),
    }


def test_digests_of_suites_with_published_results_have_not_changed():
    """Their rows name these digests; another digest would hide every published result."""
    assert load_suite(DIGITS).digest == "6b21341b321c51ee653cfd1a1d321c8608235cfb79f4f383d42230c2a1daa8e8"
    assert (
        load_suite(suite_path("cifar10")).digest == "0867f352e3427a35d5f2440aa1ecc2c3c7ba67b567fc8d98cf64b3cd88b5e760"
    )


def test_toy_is_the_experiment_of_the_paper():
    suite = load_suite(TOY)

    assert suite.shots == (1, 2, 5, 10, 20, 50, 100, 200)
    assert suite.seeds == tuple(range(50))
    assert [n_removed(rate, 3000) for rate in suite.rates] == [0, 1000]
    assert {"random", "magnitude", "gradient", "taylor", "lrp_zplus", "lrp_epsilon"} <= set(suite.criteria)
    names = ("toy_moons", "toy_circles", "toy_spiral")
    assert [(model.name, model.granularities, model.datasets) for model in suite.models] == [
        (name, ("neurons",), (name,)) for name in names
    ]
    assert suite.all_datasets == names
    assert suite.datasets_of("toy_circles") == ("toy_circles",)
    assert load_suite(DIGITS).all_datasets == load_suite(DIGITS).datasets_of("digits_vit") == ("digits",)


# Accuracy in % at 1, 5, 10, 20, 50, 100 and 200 shots: LRP, Taylor, gradient, weight.
PUBLISHED = {
    "toy_moons": (
        "85.01 99.86 99.85 99.85 99.85 99.85 99.85",
        "79.80 84.76 91.33 86.99 92.22 94.77 95.90",
        "83.07 86.17 91.27 85.87 90.92 93.53 95.11",
        "99.60 99.60 99.60 99.60 99.60 99.60 99.60",
    ),
    "toy_circles": (
        "70.23 99.98 99.99 100.00 100.00 100.00 100.00",
        "68.35 87.18 90.47 91.87 91.94 97.04 97.42",
        "69.21 82.23 83.89 85.36 85.90 90.88 92.51",
        "97.10 97.10 97.10 97.10 97.10 97.10 97.10",
    ),
    "toy_spiral": (
        "62.98 91.85 91.93 91.59 91.39 91.25 91.20",
        "34.28 77.34 81.58 83.21 84.90 84.76 85.07",
        "34.28 67.96 75.16 77.39 81.25 82.68 81.66",
        "91.00 91.00 91.00 91.00 91.00 91.00 91.00",
    ),
}


def test_published_numbers_of_toy_are_those_of_the_authors_table():
    points = load_published(load_suite(TOY), TOY)
    found = {(point.model, point.criterion, point.shots): point.top1 for point in points}
    expected = {
        (model, criterion, shots): float(value) / 100
        for model, lines in PUBLISHED.items()
        for criterion, line in zip(("lrp_zplus", "taylor", "gradient", "magnitude"), lines, strict=True)
        for shots, value in zip((1, 5, 10, 20, 50, 100, 200), line.split(), strict=True)
    }

    assert found == pytest.approx(expected, abs=1e-12)
    assert {(point.granularity, point.rate) for point in points} == {("neurons", 0.3334)}
    assert all(point.source.startswith("https://github.com/seulkiyeom/LRP_Pruning_toy_example/") for point in points)


def test_a_suite_without_published_numbers_has_none():
    assert load_published(load_suite(DIGITS), DIGITS) == ()


CELL = "toy_moons,neurons,taylor,5,0.3334,0.8476,https://example.org"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (CELL.replace("toy_moons", "moon"), r"`model` must be one of toy_moons, .*, got 'moon' in line 2 of `.*\.csv`"),
        (
            CELL.replace("neurons", "heads"),
            "`granularity` must be one that the model is pruned by in suite `toy`, got 'heads'",
        ),
        (CELL.replace("neurons", "axons"), r"`granularity` must be one of \('filters', .*, got 'axons' in line 2"),
        (CELL.replace("taylor", "tailor"), "`criterion` must be one of random, .*, got 'tailor'"),
        (CELL.replace(",5,", ",3,"), r"`shots` must be one of \(1, 2, 5, .*, got '3'"),
        (CELL.replace(",5,", ",five,"), "`shots`, `rate` and `top1` must be numbers, but in line 2 of .*'five'"),
        (CELL.replace("0.3334", "0.3"), r"`rate` must be one of \(0\.0, 0\.3334\) in suite `toy`, got '0\.3'"),
        (CELL.replace("0.8476", "84.76"), r"`top1` must be in \[0, 1\] in suite `toy`, got '84\.76'"),
        (CELL.replace("0.8476", "nan"), r"`top1` must be in \[0, 1\] in suite `toy`, got 'nan'"),
        (CELL.replace("https://example.org", " "), "`source` must be a text that is not empty"),
        (CELL + ",more", "each line must have 7 fields, but line 2 of .* has more or fewer"),
        ("toy_moons,neurons", "each line must have 7 fields, but line 2 of .* has more or fewer"),
        (f"{CELL}\n{CELL}", r"each cell must be published once, but line 3 of .* repeats \('toy_moons', 'neurons'"),
        ('"', "published numbers must be a readable CSV file"),
    ],
)
def test_published_numbers_that_belong_to_no_cell_are_refused(tmp_path, line, message):
    header = "model,granularity,criterion,shots,rate,top1,source"
    (tmp_path / "toy.published.csv").write_text(f"{header}\n{line}\n")
    with pytest.raises(SuiteError, match=message):
        load_published(load_suite(TOY), tmp_path / "toy.toml")


def test_published_numbers_need_their_columns(tmp_path):
    (tmp_path / "toy.published.csv").write_text("model,top1\ntoy_moons,0.9\n")
    with pytest.raises(
        SuiteError, match="the columns of .* must be model,granularity,criterion,shots,rate,top1,source"
    ):
        load_published(load_suite(TOY), tmp_path / "toy.toml")


def test_every_suite_that_ships_loads():
    assert {"digits", "cifar10", "toy"} <= set(suite_names())
    for name in suite_names():
        assert load_suite(suite_path(name)).name == name


FINETUNING = """
[protocol.finetuning]
images = "shots"
optimiser = "sgd"
learning_rate = 0.01
momentum = 0.9
weight_decay = 0
epochs = 2
batch_size = 8
batch_norms = "frozen"
"""


def finetuned(edited, old="", new=""):
    text = f'name = "iterative_finetune"\nscope = "global"\n{FINETUNING}'
    assert old in text
    return edited('name = "one_shot"\nscope = "global"\n', text.replace(old, new, 1))


def test_a_recipe_of_fine_tuning_decides_the_digest(edited):
    suite = load_suite(finetuned(edited))
    assert suite.finetuning == FineTuning(
        images="shots",
        optimiser="sgd",
        learning_rate=0.01,
        momentum=0.9,
        weight_decay=0.0,
        epochs=2,
        batch_size=8,
        batch_norms="frozen",
    )
    digests = {load_suite(finetuned(edited, "epochs = 2", f"epochs = {n}")).digest for n in (2, 3)}
    digests |= {
        load_suite(edited('name = "one_shot"', f'name = "{name}"')).digest for name in ("one_shot", "iterative")
    }

    assert len(digests) == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('images = "shots"', 'images = "test"', "`protocol.finetuning.images` must be `shots` or `train`, got 'test'"),
        ("epochs = 2", "epochs = 0", "`protocol.finetuning.epochs` must be a whole number of at least 1, got 0"),
        ("epochs = 2", "epochs = 2.5", "must be a whole number of at least 1, got 2.5"),
        ("epochs = 2", "epochs = true", "must be a whole number of at least 1, got True"),
        ("learning_rate = 0.01", "learning_rate = 0", "must be a number above 0, got 0"),
        ("learning_rate = 0.01", "learning_rate = nan", "must be a number above 0, got nan"),
        ("momentum = 0.9", "momentum = 1.0", r"must be a number in \[0, 1\), got 1.0"),
        ("weight_decay = 0", "weight_decay = -1", "must be a number of at least 0, got -1"),
        ("batch_size = 8\n", "", "`protocol.finetuning` must be a table of exactly"),
        ("batch_size = 8", "batch_size = 8\nwarm = 1", "`protocol.finetuning` must be a table of exactly"),
        (FINETUNING, "", "`protocol.finetuning` must be a table of exactly .*, got None"),
        ("iterative_finetune", "iterative", "`protocol.finetuning` must be left out, as the protocol does not train"),
    ],
)
def test_bad_recipes_of_fine_tuning(edited, old, new, message):
    with pytest.raises(SuiteError, match=message):
        load_suite(finetuned(edited, old, new))


def test_digest_follows_what_decides_a_result_and_nothing_else(edited):
    before = load_suite(DIGITS).digest
    for old, new in (
        ("version = 1", "version = 2"),
        ("shots = [1, 2, 5, 10, 20]", "shots = [1, 2, 5, 10]"),
        ("0.9, 0.95]", "0.9]"),
        ('scope = "global"', 'scope = "layer"'),
        ('evaluation_split = "test"', 'evaluation_split = "validation"'),
    ):
        assert load_suite(edited(old, new)).digest != before, new
    for old, new in (
        ('    "bn_scale",\n', ""),
        ("seeds = [0, 1, 2, 3, 4]", "seeds = [0, 1]"),
        ('title = "Handwritten digits"', 'title = "Digits"'),
        ('digits_vit = ["neurons", "heads"]', ""),
    ):
        assert load_suite(edited(old, new)).digest == before, new


def test_unknown_names_say_the_nearest():
    with pytest.raises(
        UnknownNameError, match=r"there is no suite `digit`\. Did you mean `digits`\? Known: cifar10, .*digits"
    ):
        suite_path("digit")
    suite = load_suite(DIGITS)
    with pytest.raises(
        UnknownNameError, match=r"there is no criterion in suite `digits`: `tailor`\. Did you mean `taylor`"
    ):
        expand(suite, criteria=["tailor"])
    with pytest.raises(
        UnknownNameError, match=r"there is no model in suite `digits`: `digits_vg`\. Did you mean `digits_vgg"
    ):
        expand(suite, models=["digits_vg"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("format = 1", "format = 2", "`format` must be 1, the only one this version reads, got 2"),
        (
            "version = 1",
            "version = 0",
            r"`version` must be increasing whole numbers, each at least 1 and below 2\*\*63, got \[0\]",
        ),
        ("version = 1", 'version = "1"', "`version` must be increasing whole numbers"),
        ('title = "Handwritten digits"', 'title = " "', "`title` must be a text that is not empty, got ' '"),
        ('name = "one_shot"', 'name = "two_shot"', "`protocol.name` must be one of .*, got 'two_shot'"),
        ('scope = "global"', 'scope = "galactic"', "`protocol.scope` must be one of .*, got 'galactic'"),
        (
            "rates = [0.0, 0.05",
            "rates = [0.05",
            r"`grid.rates` must be increasing numbers in \[0, 1\) that begin with 0",
        ),
        ("0.9, 0.95]", "0.9, 1.0]", r"`grid.rates` must be increasing numbers in \[0, 1\)"),
        ("0.9, 0.95]", "0.9, nan]", r"`grid.rates` must be increasing numbers in \[0, 1\)"),
        ("rates = [0.0, 0.05", "rates = [0.0, 0.0", "`grid.rates` must be increasing"),
        ("shots = [1, 2", "shots = [0, 2", "`grid.shots` must be increasing whole numbers, each at least 1"),
        ("shots = [1, 2", "shots = [true, 2", "`grid.shots` must be increasing whole numbers"),
        ("shots = [1, 2, 5, 10, 20]", "shots = []", "`grid.shots` must be increasing whole numbers"),
        ("seeds = [0, 1", "seeds = [1, 1", "`grid.seeds` must be increasing"),
        ('    "random",\n', '    "random",\n    "random",\n', "`grid.criteria` must be a list of distinct names"),
        ("criteria = [", "criterion = [", r"there is no field `grid.criterion` in .*Did you mean `criteria`\?"),
        ('reference_split = "train"\n', "", "the field `data.reference_split` is missing"),
        ('digits_vgg = ["filters"]', 'digits_vgg = ["kernels"]', "`models.digits_vgg` must be a list of some of"),
        ('digits_vgg = ["filters"]', 'digits_vgg = "filters"', "`models.digits_vgg` must be a list of some of"),
        ("[data]", "[data", "must be valid TOML"),
        ("version = 1", f"version = {'1' * 5000}", "must be valid TOML"),
        ("version = 1", f"version = {'[' * 5000}{']' * 5000}", "must be valid TOML"),
        ("version = 1", f"version = {2**63}", r"`version` must be .* and below 2\*\*63, got \[9223372036854775808\]"),
        ("version = 1", f"version = 0x{'f' * 5000}", "`version` must be .*, got a `list` that is too large to show"),
        ("seeds = [0, 1, 2, 3, 4]", f"seeds = [{2**63}]", r"`grid.seeds` must be .* and below 2\*\*63"),
        ("format = 1", "format = true", "`format` must be 1, .*, got True"),
        ("format = 1", "format = []", r"`format` must be 1, .*, got \[\]"),
        ('name = "digits"', "name = {}", r"`name` must be a name of the form \[a-z\]\[a-z0-9_\]\*, got {}"),
        ('title = "Handwritten digits"', "title = []", r"`title` must be a text that is not empty, got \[\]"),
        ('name = "one_shot"', "name = []", r"`protocol.name` must be one of .*, got \[\]"),
        ('scope = "global"', "scope = {}", "`protocol.scope` must be one of .*, got {}"),
        ("0.9, 0.95]", "0.9, [0.95]]", "`grid.rates` must be increasing numbers"),
        ('    "random",\n', '    ["random"],\n', r"`grid.criteria` must be a name of the form .*, got \['random'\]"),
        (
            '    "random",\n',
            f"    0x{'f' * 5000},\n",
            "`grid.criteria` must be .*, got a `int` that is too large to show",
        ),
        ('    "random",\n', '    "../random",\n', "`grid.criteria` must be a name of the form .*, got '../random'"),
        ('datasets = ["digits"]', 'datasets = [".."]', r"`data.datasets` must be a name of the form .*, got '\.\.'"),
        ('datasets = ["digits"]', 'datasets = ["a/b"]', "`data.datasets` must be a name of the form .*, got 'a/b'"),
        ('datasets = ["digits"]', "datasets = [{}]", "`data.datasets` must be a name of the form .*, got {}"),
        (
            'evaluation_split = "test"',
            'evaluation_split = "train"',
            "`data.evaluation_split` must be another split .*'train'",
        ),
        ('digits_vgg = ["filters"]', 'digits_vgg = [["filters"]]', "`models.digits_vgg` must be a list of some of"),
        ('digits_vgg = ["filters"]', "digits_vgg = [{}]", "`models.digits_vgg` must be a list of some of"),
        (
            'digits_vgg = ["filters"]',
            'digits_vgg = { granularities = ["filters"] }',
            "`models.digits_vgg` must be a list of some of .*, or a table of such `granularities` and `datasets`, got",
        ),
        (
            'digits_vgg = ["filters"]',
            'digits_vgg = { granularities = ["filters"], datasets = [] }',
            r"`models.digits_vgg.datasets` must be a list of distinct names, got \[\]",
        ),
        (
            'datasets = ["digits"]\n',
            "",
            "`models.digits_vgg` must be a table that names `datasets`, as `data.datasets` is missing",
        ),
        (
            'digits_vgg = ["filters"]',
            f"digits_vgg{'.a' * 5000} = 1",
            r"must be .*, got (a `dict` that is too|{'a': {'a')",
        ),
        ('digits_vgg = ["filters"]', '"../vgg" = ["filters"]', "`models` must be a name of the form .*, got '../vgg'"),
    ],
)
def test_a_broken_suite_file_is_refused_with_its_field(edited, old, new, message):
    path = edited(old, new)
    with pytest.raises(SuiteError, match=message) as caught:
        load_suite(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_missing_misnamed_or_no_text_is_refused(edited, tmp_path):
    with pytest.raises(SuiteError, match="must be readable"):
        load_suite(tmp_path / "nowhere.toml")
    with pytest.raises(SuiteError, match="`name` must be the stem of its file, `other`, got 'digits'"):
        load_suite(edited("version = 1", "version = 1", name="other.toml"))
    for name in ("..", "Digits", "di-gits"):
        path = edited('name = "digits"', f'name = "{name}"', name=f"{name}.toml")
        with pytest.raises(SuiteError, match=r"`name` must be a name of the form \[a-z\].*, got '" + re.escape(name)):
            load_suite(path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="must be valid TOML"):
        load_suite(binary)

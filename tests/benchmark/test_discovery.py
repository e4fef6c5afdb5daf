"""Plugins come from the project, from installed packages and from named files, and rows say from which source."""

import hashlib
import os
import shutil
import sys
from unittest import mock

import pytest

from commands import ROOT, pruneboard_here, write_suite
from elsewhere import MODULE
from pruneboard.benchmark import discovery, plugins
from pruneboard.benchmark.cli.submitting import SubmitOptions, _statement
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import PluginError, PruneboardError
from pruneboard.benchmark.executors._ray._code import stage_code
from pruneboard.benchmark.store import RunStore

MODEL = """
from pruneboard.benchmark.api import Model


def build():
    raise NotImplementedError


TINY = Model(
    name="elsewhere_net", version=1, family="VGG", description="A network.", source="https://example.org",
    licence="MIT",
    build=build, granularities=("filters",), input_size=(3, 8, 8), mean=(0, 0, 0), std=(1, 1, 1),
)
"""


@pytest.fixture(autouse=True)
def _no_files(monkeypatch):
    monkeypatch.setenv(discovery.FILES_VARIABLE, "")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "elsewhere.py"
    path.write_text(MODULE)
    return path


def install(folder, modules, entries):
    """What pip leaves of a package: its modules, and the metadata that name its plugins."""
    info = folder / "pruneboard_elsewhere-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pruneboard-elsewhere\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entries)
    tops = {name.partition("/")[0].removesuffix(".py") for name in modules}
    (info / "top_level.txt").write_text("\n".join(sorted(tops)) + "\n")
    for name, text in modules.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a criterion and a model in a folder that Python looks into."""

    def make(modules, entries):
        folder = install(tmp_path / "site", modules, entries)
        monkeypatch.syspath_prepend(folder)
        plugins._criteria.cache_clear()
        plugins._models.cache_clear()
        return folder

    yield make
    plugins._criteria.cache_clear()
    plugins._models.cache_clear()
    for name in [name for name in sys.modules if name.startswith("elsewhere")]:
        del sys.modules[name]


def test_a_file_is_known_once_it_is_named_and_only_then(file, monkeypatch):
    assert "elsewhere" not in plugins.criteria().names()
    assert plugins.criteria_of_file(file) == ("elsewhere", "elsewhere_l2")
    assert plugins.criterion_parameters(plugins.criteria().get("elsewhere_l2")) == {"power": 2.0}
    assert plugins.criteria().origin("elsewhere") == "file elsewhere.py"
    assert plugins.resolve_criteria([str(file), "random", str(file)]) == ("elsewhere", "elsewhere_l2", "random")

    monkeypatch.setenv(discovery.FILES_VARIABLE, "")
    assert "elsewhere" not in plugins.criteria().names()


def test_the_digest_of_a_file_is_the_same_wherever_it_lies(file, tmp_path):
    """So rows stay valid when it moves to `criteria/`; derived by hand."""
    other = tmp_path / "other" / "elsewhere.py"
    other.parent.mkdir()
    shutil.copy(file, other)
    (tmp_path / "_helper.py").write_text("x = 1\n")
    digests = {Source(path=str(path)).digest() for path in (file, other)}
    content = hashlib.sha256(MODULE.encode()).digest()

    assert digests == {hashlib.sha256(b"elsewhere.py\0" + content).hexdigest()}


def test_a_folder_is_a_package_all_of_which_is_its_source(tmp_path):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        MODULE.replace("power: float = 1.0", "power: float = ONE").replace(
            "from pruneboard", "from ._one import ONE\nfrom pruneboard", 1
        )
    )
    (folder / "_one.py").write_text("ONE = 1.0\n")
    copied = tmp_path / "copy" / "elsewhere"
    shutil.copytree(folder, copied)
    (copied / "_one.py").write_text("ONE = 1.5\n")
    first, second = (Source(path=str(path)).digest() for path in (folder, copied))

    assert plugins.criteria_of_file(folder) == ("elsewhere", "elsewhere_l2")
    assert plugins.criteria().origin("elsewhere") == "file elsewhere"
    assert first != second


def test_a_file_of_the_project_may_be_named_by_its_path():
    assert plugins.resolve_criteria([str(ROOT / "criteria" / "magnitude.py")]) == ("magnitude", "magnitude_l2")
    assert plugins.resolve_criteria([str(ROOT / "criteria" / "lrp")])[0] == "lrp"
    assert discovery.named_files() == ()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "absent.py",
            None,
            r"a plugin must be a Python file, or a folder with an `__init__\.py`, but .* is not there;",
        ),
        ("text.txt", "x", r"a plugin must be a Python file, or a folder with an `__init__\.py`, but .* is not;"),
        ("empty.py", "x = 1\n", r"a plugin file must define a criterion or a model, but .* defines none;"),
        (
            "broken.py",
            "import nothing_of_this_name\n",
            r"a plugin file must be importable, but .* ModuleNotFoundError: ",
        ),
        ("syntax.py", "def\n", r"a plugin file must be importable, but .* SyntaxError: "),
        ("script.py", "import sys\nsys.exit(3)\n", r"a plugin file must be importable, but .* SystemExit: 3"),
        ("magnitude.py", None, r"`magnitude` is taken: by `builtin` and `file magnitude\.py`; rename one"),
        ("undeclared.py", MODULE.replace('"weights"', '"mine"'), r"`family` of criterion `Elsewhere` must be one of "),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(tmp_path, name, text, message):
    path = tmp_path / name
    if name == "magnitude.py":
        text = (ROOT / "criteria" / name).read_text()
    if text is not None:
        path.write_text(text)
    with pytest.raises(PruneboardError, match=message):
        plugins.criteria_of_file(path)


def test_a_path_with_the_separator_of_paths_is_refused(tmp_path):
    folder = tmp_path / f"a{os.pathsep}b"
    folder.mkdir()
    (folder / "mine.py").write_text(MODULE)
    with pytest.raises(PluginError, match="must not hold"):
        discovery.name_file(folder / "mine.py")


@pytest.mark.parametrize("value", ["elsewhere_pkg.deep.inner", "elsewhere_pkg.deep.inner:Elsewhere"])
def test_an_installed_package_is_known_by_its_entry_points(installed, value):
    inner = {
        "elsewhere_pkg/__init__.py": "",
        "elsewhere_pkg/deep/__init__.py": "",
        "elsewhere_pkg/deep/inner.py": MODULE,
    }
    entries = f"[pruneboard.criteria]\nmine = {value}\n[pruneboard.models]\nnet = elsewhere_net\n"
    folder = installed({**inner, "elsewhere_net.py": MODEL}, entries)

    assert {"elsewhere", "elsewhere_l2"} <= set(plugins.criteria().names())
    assert plugins.criteria().origin("elsewhere") == "package pruneboard-elsewhere 1.2"
    assert plugins.models().get("elsewhere_net").family == "VGG"
    digest = plugins.criterion_digest(plugins.criteria().get("elsewhere"))
    assert plugins.installed_digests(["elsewhere_tuned", "taylor", "gone"]) == {"elsewhere": digest}
    source = plugins.criteria().get("elsewhere").origin
    before = source.digest()
    # Every file of the package may decide the scores.
    (folder / "elsewhere_pkg" / "helper.py").write_text("x = 1\n")
    assert source.digest() != before
    # Its neighbours do not.
    after = source.digest()
    (folder / "_other.py").write_text("x = 1\n")
    assert source.digest() == after


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            "[pruneboard.criteria]\nmine = elsewhere_gone\n",
            "mine = elsewhere_gone` of package pruneboard-elsewhere 1.2 is not:",
        ),
        (
            "[pruneboard.criteria]\nmine = elsewhere_net\n",
            "must name a module that defines a plugin, or the plugin, but `mine",
        ),
    ],
)
def test_entry_points_that_name_no_plugin_are_refused_by_name(installed, entries, message):
    installed({"elsewhere_net.py": MODEL}, entries)
    with pytest.raises(PluginError, match=message):
        plugins.criteria()


def test_a_file_runs_in_worker_processes_and_rows_hold_its_source(tmp_path, file):
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["random"], seeds=[0, 1])
    done = pruneboard_here("run", "small.toml", "--criterion", "./elsewhere.py", "--workers", 1, cwd=tmp_path)
    rows = RunStore(tmp_path / "runs").read("small")
    table = pruneboard_here("table", "small.toml", cwd=tmp_path)

    assert done.returncode == 0, done.stdout + done.stderr
    assert set(rows["criterion"]) == {"elsewhere", "elsewhere_l2"}
    assert set(rows["status"]) == {"ok"}
    assert set(rows["criterion_digest"].astype(str)) == {Source(path=str(file)).digest()}
    assert "elsewhere_l2" in table.stdout, "a criterion that the suite does not list is shown where it was run"


def test_a_criterion_that_no_suite_lists_runs_by_its_name(tmp_path):
    write_suite(tmp_path, models={"digits_vgg": ["filters"]}, criteria=["random"])
    done = pruneboard_here("run", "small.toml", "--criterion", "magnitude", "--dry-run", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "1 job" in done.stdout


def test_list_and_show_say_where_criteria_come_from(tmp_path, file):
    shown = pruneboard_here("show", "./elsewhere.py", cwd=tmp_path)
    listed = pruneboard_here("list", "criteria", cwd=tmp_path, env={discovery.FILES_VARIABLE: str(file)})

    assert "file elsewhere.py" in shown.stdout
    assert Source(path=str(file)).digest() in shown.stdout
    assert "elsewhere_l2" in listed.stdout
    assert "builtin" in listed.stdout


def test_a_card_says_of_a_file_what_its_own_class_says(tmp_path, file):
    plugins.criteria_of_file(file)
    said = {"author": "A", "licence": "MIT", "url": "https://github.com/a/b"}
    options = SubmitOptions(criteria=(), suite="digits", results=tmp_path, pull_request=False, run=mock.Mock(), **said)

    assert _statement("elsewhere", options).summary == "Norm of a unit's weights."


def test_prune_takes_a_file_with_one_criterion_and_refuses_one_with_several(tmp_path, file):
    done = pruneboard_here(
        "prune", "digits_vgg", "--criterion", "./elsewhere.py", "--rate", 0.5, "--out", "small", cwd=tmp_path
    )
    assert done.returncode == 2
    assert "must be one criterion, but `./elsewhere.py` defines elsewhere, elsewhere_l2;" in done.stderr


def test_named_files_are_sent_to_nodes_with_the_code(tmp_path, file):
    discovery.name_file(file)
    package, _ = stage_code(tmp_path / "staged")
    (sent,) = (package / discovery.SENT_FOLDER).glob("*/*")

    assert sent.read_text() == MODULE
    assert (package / "benchmark").is_dir(), "it lies where the code there looks for it"

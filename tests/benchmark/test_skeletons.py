"""What `pruneboard new` writes works as it is, and no name makes a file that some system cannot have."""

import tomllib

import pytest

from commands import pruneboard_here
from pruneboard.benchmark import discovery, plugins
from pruneboard.benchmark.contract import check_criterion, failures
from pruneboard.benchmark.errors import PluginError, PruneboardError
from pruneboard.benchmark.registry import Registry
from pruneboard.benchmark.skeletons import Skeleton, write_files


@pytest.mark.parametrize("kind", ["images", "weights", "function"])
def test_a_skeleton_keeps_the_contract(tmp_path, monkeypatch, kind):
    monkeypatch.setenv(discovery.FILES_VARIABLE, "")
    source, test = write_files(Skeleton(name=f"my_{kind}", kind=kind).files(tmp_path))
    (name,) = plugins.criteria_of_file(source)

    assert name == f"my_{kind}"
    assert test.name == f"test_my_{kind}.py"
    assert failures(check_criterion(plugins.own_criterion(name), ["vgg", "vit_heads"])) == []


def test_a_package_names_its_criterion_by_an_entry_point(tmp_path):
    top, *_ = write_files(Skeleton(name="my_taylor", author="A. Uthor").package_files(tmp_path))
    project = tomllib.loads(top.read_text())["project"]

    assert project["name"] == "pruneboard-my-taylor"
    assert project["entry-points"]["pruneboard.criteria"] == {"my_taylor": "pruneboard_my_taylor"}
    assert project["authors"] == [{"name": "A. Uthor"}]


@pytest.mark.parametrize(
    "name", ["My-Taylor", "../up", "", "-x", "a b", "café", "tаylor", "<b>", "x" * 65, "con", "nul", "com1", "speed"]
)
def test_names_that_cannot_be_those_of_files_everywhere_are_refused(name):
    with pytest.raises(PluginError, match="^the name of a criterion must be "):
        Skeleton(name=name)
    with pytest.raises(PruneboardError, match="^the name of a model must be "):
        Registry("model", object).register(name, object())


@pytest.mark.parametrize("name", ["json", "class"])
def test_names_of_python_are_refused(name):
    with pytest.raises(PluginError, match="must be neither a word nor a module of Python"):
        Skeleton(name=name)


def test_nothing_is_overwritten_and_no_name_is_taken_twice(tmp_path):
    first = pruneboard_here("new", "mine", cwd=tmp_path)
    (tmp_path / "mine.py").write_text("changed")
    (tmp_path / "test_mine.py").unlink()
    again = pruneboard_here("new", "mine", cwd=tmp_path)
    taken = pruneboard_here("new", "taylor", cwd=tmp_path)
    endless = pruneboard_here("new", 300 * "x", cwd=tmp_path)

    assert first.returncode == 0, first.stderr
    assert first.stdout.endswith("Next: pruneboard check mine.py\n")
    assert again.returncode == taken.returncode == endless.returncode == 2
    assert "`mine.py` must not be there yet" in again.stderr
    assert (tmp_path / "mine.py").read_text() == "changed"
    assert not (tmp_path / "test_mine.py").exists()
    assert "`taylor` is taken (builtin)" in taken.stderr
    assert f"got `{64 * 'x'}...`; rename it." in endless.stderr

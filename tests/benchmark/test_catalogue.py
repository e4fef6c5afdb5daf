import json
from pathlib import Path

import pytest

from pruneboard.benchmark import plugins
from pruneboard.benchmark.catalogue import FILE, Catalogue, read_catalogue, write_catalogue
from pruneboard.benchmark.cli.cataloguing import make_catalogue
from pruneboard.benchmark.errors import StoreError

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_the_published_catalogue_is_what_the_plugins_say():
    assert read_catalogue(RESULTS) == make_catalogue(), "write it again: pruneboard site catalogue"


def test_every_criterion_and_network_has_an_entry_with_its_own_words():
    catalogue = make_catalogue()
    taylor = catalogue.criteria["taylor_logit"]

    assert tuple(catalogue.criteria) == plugins.criteria().names()
    assert tuple(catalogue.models) == plugins.models().names()
    assert (taylor.base, taylor.version, taylor.files) == ("taylor", 2, ("taylor.py",))
    assert {p.name: p.value for p in taylor.parameters}["target"] == '"logit"'
    assert all(p.meaning for entry in catalogue.criteria.values() for p in entry.parameters)
    assert catalogue.criteria["lrp_epsilon"].files[0] == "lrp/__init__.py"
    assert catalogue.models["digits_vit"].recipe
    assert catalogue.datasets["digits"].contamination


def test_a_catalogue_is_read_as_it_was_written(tmp_path):
    catalogue = make_catalogue()
    write_catalogue(catalogue, tmp_path / "new")

    assert read_catalogue(tmp_path / "new") == catalogue
    assert read_catalogue(tmp_path) == Catalogue()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "criteria": {"a": {"name": "a"}}}'])
def test_a_damaged_catalogue_is_one_clear_error(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="utf-8")

    with pytest.raises(StoreError, match=r"must be what `pruneboard site catalogue` writes, but .*; write it again"):
        read_catalogue(tmp_path)


def test_the_file_is_plain_json(tmp_path):
    path = write_catalogue(Catalogue(), tmp_path)

    assert json.loads(path.read_text(encoding="utf-8")) == {"format": 1, "criteria": {}, "models": {}, "datasets": {}}

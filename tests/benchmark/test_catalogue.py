from pruneboard.benchmark import plugins
from pruneboard.benchmark.cli.cataloguing import make_catalogue


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

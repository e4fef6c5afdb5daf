"""What pages say of the rules of LRP, against the class that has them."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest

from pruneboard.benchmark.api import AbsoluteAt
from pruneboard.benchmark.catalogue import Parameter
from pruneboard.benchmark.cli.cataloguing import make_catalogue
from pruneboard.benchmark.render.rules import Meaning, meaning, rules_in_words
from pruneboard.benchmark.render.templates import make_environment
from pruneboard.criteria.lrp import Output, Projections
from pruneboard.criteria.lrp._attention import SoftmaxRule
from pruneboard.criteria.lrp._composites import RuleName

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = make_catalogue().criteria
CHOICES = {
    **dict.fromkeys(("low", "mid", "high", "fc"), RuleName),
    "projections": Projections,
    "softmax": SoftmaxRule,
    "output": Output,
    "absolute": AbsoluteAt,
}


@pytest.fixture(scope="module")
def rules():
    return make_environment(ROOT / "site" / "templates").get_template("rules.html").render()


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, choices in CHOICES.items() for value in typing.get_args(choices)]
)
def test_every_choice_is_put_into_words_and_linked_to_what_explains_it(rules, name, value):
    found = meaning(ENTRIES["lrp_epsilon"], Parameter(name=name, value=f'"{value}"', meaning=""))

    assert found is not None
    assert found.text
    if name in ("low", "mid", "high", "fc", "softmax", "absolute"):
        section = re.search(rf'<div id="{found.anchor}">(.*?)</div>', rules, re.DOTALL)
        assert section is not None
        assert f"<code>{value}</code>" in section[1]


def test_numbers_and_parameters_of_other_criteria_speak_for_themselves():
    gradient = dataclasses.replace(ENTRIES["gradient"], base="gradient")

    assert meaning(ENTRIES["lrp_gamma"], Parameter(name="gamma_conv", value="0.25", meaning="")) is None
    assert meaning(gradient, Parameter(name="low", value='"epsilon"', meaning="")) is None
    assert meaning(gradient, Parameter(name="absolute", value='"none"', meaning="")) == Meaning(
        "kept: the most negative units go first", "sign-none"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lrp_epsilon", [("all hidden layers and the classifier", "epsilon rule")]),
        ("lrp_epsilon_plus", [("all hidden layers", "z+ rule"), ("the classifier", "epsilon rule")]),
        ("lrp_gamma", [("all hidden layers and the classifier", "gamma rule")]),
        ("gradient", []),
    ],
)
def test_a_criterion_says_which_layers_follow_which_rule(name, expected):
    assert [(layers, rule.text) for layers, rule in rules_in_words(ENTRIES[name])] == expected


def test_depths_with_rules_of_their_own_are_named_one_by_one():
    entry = ENTRIES["lrp_epsilon"]
    changed = {"mid": '"gamma"', "fc": '"z_plus"'}
    parameters = tuple(dataclasses.replace(p, value=changed.get(p.name, p.value)) for p in entry.parameters)

    found = rules_in_words(dataclasses.replace(entry, parameters=parameters))
    assert [(layers, rule.text) for layers, rule in found] == [
        ("low and high layers", "epsilon rule"),
        ("middle layers", "gamma rule"),
        ("the classifier", "z+ rule"),
    ]


def test_every_rule_has_its_formula_in_mathml_and_its_source(rules):
    sections = dict(re.findall(r'<div id="(rule-\w+|softmax-\w+)">(.*?)</div>', rules, re.DOTALL))

    assert len(sections) == 7
    for name, section in sections.items():
        assert "https://" in section
        assert ("<math" in section) == (name != "softmax-cp")

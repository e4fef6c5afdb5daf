"""Formulas of docstrings as MathML."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from pruneboard.benchmark.cli.cataloguing import make_catalogue
from pruneboard.benchmark.render.formulas import with_formulas

RESULTS = Path(__file__).resolve().parents[2] / "results"


def formulas(text):
    return re.findall("<math>(.*?)</math>", with_formulas(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s_i", "<msub><mi>s</mi><mi>i</mi></msub>"),
        ("w^2", "<msup><mi>w</mi><mn>2</mn></msup>"),
        ("x'", "<msup><mi>x</mi><mo>′</mo></msup>"),
        ("|gamma_i|", '<mo stretchy="false">|</mo><msub><mi>γ</mi><mi>i</mi></msub><mo stretchy="false">|</mo>'),
        (
            "dL/da_i",
            "<mfrac><mrow><mo>∂</mo><mi>L</mi></mrow><mrow><mo>∂</mo><msub><mi>a</mi><mi>i</mi></msub></mrow></mfrac>",
        ),
        ("1/(N P) x_i", "<mfrac><mn>1</mn><mrow><mi>N</mi><mi>P</mi></mrow></mfrac><msub><mi>x</mi><mi>i</mi></msub>"),
        ("(a_i - 1)/m", "<mfrac><mrow><msub><mi>a</mi><mi>i</mi></msub><mo>−</mo><mn>1</mn></mrow><mi>m</mi></mfrac>"),
    ],
)
def test_symbols_quotients_and_bars_become_mathml(text, expected):
    assert formulas(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "a unit's l2 norm",
        "lrp_epsilon and z_plus_x",
        "and/or",
        "top-1 accuracy (95 %)",
        "alpha 1 and beta 0",
        "x - 1",
        "k = 1..m",
    ],
)
def test_prose_stays_prose(text):
    assert formulas(text) == []


def test_words_end_a_formula_and_stay_words():
    shown = with_formulas("Mean gradient, s_i = |1/N sum over images of dL/da_i|.")

    assert len(re.findall("<math>", shown)) == 2
    assert re.sub("<math>.*?</math>", "#", shown) == "Mean gradient, # sum over images of #."


@given(st.text(alphabet="asxLd_^|/()'12 <>&\"=-.", max_size=30))
def test_any_text_becomes_well_formed_and_holds_no_element_but_mathml(text):
    root = ET.fromstring(f"<p>{with_formulas(text)}</p>")

    allowed = {"p", "math", "mi", "mn", "mo", "mrow", "msub", "msup", "mfrac"}
    assert {element.tag for element in root.iter()} <= allowed
    outside = re.sub("<math>.*?</math>", "", with_formulas(text))
    assert "<" not in outside


def test_the_formulas_of_the_criteria_are_found():
    catalogue = make_catalogue()

    for name in ("taylor", "gradient", "magnitude", "bn_scale", "activation"):
        assert formulas(catalogue.criteria[name].summary)

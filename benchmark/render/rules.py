"""What the values of an LRP criterion's parameters stand for, in words, and where the method page explains them."""

import dataclasses
import json
from collections.abc import Mapping

from pruneboard.benchmark.catalogue import CriterionEntry, Parameter

LRP = "lrp"
"""Registered name of the class whose parameters name rules."""

_RULES = {"epsilon": "epsilon rule", "gamma": "gamma rule", "alpha2_beta1": "alpha-beta rule", "z_plus": "z+ rule"}
_DEPTHS = {"low": "low", "mid": "middle", "high": "high"}
_SOFTMAX = {
    "attn_lrp": "expanded",
    "cp": "constant",
    "z_plus": "z+, without a bias",
    "z_plus_bias": "z+, with a bias",
}
_SIGNS = {
    "pxp": "dropped for each image (filters) or at each token (neurons, heads)",
    "none": "kept: the most negative units go first",
    "token": "dropped at each position",
    "image": "dropped for each image",
    "total": "dropped after the sum over images",
}
_OUTPUTS = {"one_hot": "1 at the label", "logit": "the label's logit"}


@dataclasses.dataclass(frozen=True)
class Meaning:
    """A value in words, and the anchor on the method page where it is explained; empty where nothing is."""

    text: str
    anchor: str = ""


def meaning(entry: CriterionEntry, parameter: Parameter) -> Meaning | None:
    """Return what the value of a parameter stands for; None where the value speaks for itself."""
    value = json.loads(parameter.value)
    if not isinstance(value, str):
        return None
    if parameter.name == "absolute" and value in _SIGNS:
        return Meaning(_SIGNS[value], f"sign-{value}")
    if entry.base != LRP:
        return None
    if parameter.name == "softmax" and value in _SOFTMAX:
        return Meaning(_SOFTMAX[value], f"softmax-{value.removesuffix('_bias')}")
    if parameter.name in (*_DEPTHS, "fc", "projections") and value in _RULES:
        return Meaning(_RULES[value], f"rule-{value}")
    if parameter.name == "projections" and value == "depth":
        return Meaning("the rule of their depth")
    if parameter.name == "output" and value in _OUTPUTS:
        return Meaning(_OUTPUTS[value])
    return None


def rules_in_words(entry: CriterionEntry) -> tuple[tuple[str, Meaning], ...]:
    """Return which layers of an LRP criterion follow which rule, those together that share one; empty for others."""
    given: Mapping[str, Parameter] = {parameter.name: parameter for parameter in entry.parameters}
    if "composite" in given and json.loads(given["composite"].value) != "depth":
        return ()
    by_rule: dict[Meaning, list[str]] = {}
    for name in (*_DEPTHS, "fc"):
        if name in given and (found := meaning(entry, given[name])):
            by_rule.setdefault(found, []).append(name)
    return tuple((_layers(names), found) for found, names in by_rule.items())


def _layers(names: list[str]) -> str:
    depths = [_DEPTHS[name] for name in names if name in _DEPTHS]
    hidden = "all hidden" if len(depths) == len(_DEPTHS) else " and ".join(depths)
    parts = [f"{hidden} layers" if hidden else "", "the classifier" if "fc" in names else ""]
    return " and ".join(part for part in parts if part)

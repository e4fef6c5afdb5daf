"""Layer-wise relevance propagation, on zennit.

Source: Bach et al. 2015 (doi 10.1371/journal.pone.0130140) for the rules; Yeom et al. 2019 (arXiv 1912.08881) and
Hatefi et al. 2024 (arXiv 2408.12568) for pruning by it, and the latter for the parameters.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
from timm.layers import Attention
from torch import Tensor, nn

from pruneboard.benchmark.api import (
    Batch,
    Context,
    CriterionError,
    Needs,
    PooledCriterion,
    SearchSpace,
    Unsupported,
    batch_norms_after,
    check_choice,
    tapped,
)
from pruneboard.criteria.lrp._attention import SoftmaxRule
from pruneboard.criteria.lrp._canonizers import Blocks, MergeBatchNorm
from pruneboard.criteria.lrp._composites import (
    Depth,
    ModuleMap,
    RuleName,
    by_depth,
    check_supported,
    composite_names,
    depth_groups,
    from_zennit,
    make_composite,
)

Output = Literal["one_hot", "logit"]
Projections = Literal["depth", "epsilon", "gamma", "alpha2_beta1", "z_plus"]

_RULES = get_args(RuleName)
_DEPTHS = get_args(Depth)
_TOLERANCE = 2e-3
"""Largest relative deviation of logits that rounding explains when batch norms are merged."""


def _everywhere(rule: RuleName) -> dict[str, Any]:
    return dict.fromkeys(_DEPTHS, rule)


@dataclasses.dataclass(frozen=True)
class LRP(PooledCriterion):
    """Relevance of a unit for the label's logit, R_i summed over positions and averaged over images.

    Batch norms are merged into their convolutions, residual sums and averages divide relevance by contribution,
    maxima give it to the winner, layer norms take their deviation for a constant, and other functions of single
    elements hand it on.

    Attributes:
        absolute: where the absolute value is taken.
        per_layer: division by the l2 norm of the layer's scores, or `none`.
        low: rule of the first quarter of the hidden layers, `epsilon`, `gamma`, `alpha2_beta1` or `z_plus`; depth
            counts blocks or stages where the network has them.
        mid: rule of the layers between.
        high: rule of the last quarter of the hidden layers.
        fc: rule of the classifier's linear layers.
        projections: rule of the query, key, value and output projections of attentions; `depth` gives them that of
            their depth.
        softmax: rule of the softmax of attentions.
        output: relevance that starts at the logits: 1 for the label (`one_hot`), or its logit (`logit`).
        gamma_conv: gamma of the gamma rule in convolutions.
        gamma_linear: gamma of the gamma rule in linear layers.
        composite: `depth` for the rules above, or the name of a composite of zennit that takes their place.
    """

    low: RuleName = "epsilon"
    mid: RuleName = "epsilon"
    high: RuleName = "epsilon"
    fc: RuleName = "epsilon"
    projections: Projections = "depth"
    softmax: SoftmaxRule = "attn_lrp"
    output: Output = "one_hot"
    gamma_conv: float = 0.25
    gamma_linear: float = 0.05
    composite: str = "depth"

    name: ClassVar[str] = "lrp"
    version: ClassVar[int] = 2
    family: ClassVar[str] = "attribution"
    source: ClassVar[str] = "https://arxiv.org/abs/2408.12568"
    needs: ClassVar[Needs] = "labels"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        # Bach et al. 2015; with attention, AttnLRP's rule of the softmax.
        "lrp_epsilon": {},
        # Hatefi et al. 2024 compare with it: the most negative relevance goes first, not what is nearest to zero.
        "lrp_signed": {"absolute": "none"},
        # Yeom et al. 2019: alpha 1, beta 0 in every layer.
        "lrp_zplus": {**_everywhere("z_plus"), "softmax": "z_plus"},
        # What explains images of convolutional networks faithfully: Kohlbrenner et al. 2020, arXiv 1910.09840.
        "lrp_epsilon_plus": {**_everywhere("z_plus"), "fc": "epsilon"},
        # What explains images of transformers faithfully: Achtibat et al. 2024, arXiv 2402.05602, table A.1.
        "lrp_gamma": {**_everywhere("gamma"), "projections": "epsilon", "softmax": "z_plus"},
        "lrp_attn": {**_everywhere("gamma"), "projections": "epsilon"},
        # Ali et al. 2022, arXiv 2202.07304.
        "lrp_cp": {"softmax": "cp"},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        for depth in _DEPTHS:
            check_choice(depth, getattr(self, depth), _RULES)
        check_choice("projections", self.projections, get_args(Projections))
        check_choice("softmax", self.softmax, get_args(SoftmaxRule))
        check_choice("output", self.output, get_args(Output))
        check_choice("composite", self.composite, ("depth", *composite_names()))
        for name in ("gamma_conv", "gamma_linear"):
            if not getattr(self, name) >= 0:
                raise CriterionError(f"`{name}` must be at least 0, got {getattr(self, name)}.")
        # Rules that a composite would silently overrule are a mistake of whoever asks for both.
        chosen = [depth for depth in (*_DEPTHS, "projections") if getattr(self, depth) not in ("epsilon", "depth")]
        if self.composite != "depth" and chosen:
            raise CriterionError(
                f"`composite` decides all rules, so `{chosen[0]}` must keep its default, got "
                f"{getattr(self, chosen[0])!r} beside composite {self.composite!r}; choose one of the two."
            )

    def search_space(self, context: Context) -> SearchSpace:
        """Add the rule of every depth group, that of the softmax where there is attention, and the output."""
        present = set(depth_groups(context.model).values())
        space = {**super().search_space(context), **{depth: _RULES for depth in _DEPTHS if depth in present}}
        if any(isinstance(module, Attention) for module in context.model.modules()):
            space["softmax"] = get_args(SoftmaxRule)
        return {**space, "output": get_args(Output)}

    def values(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Propagate relevance back to every tap.

        Raises:
            Unsupported: the network holds something that no rule or canonizer covers.
        """
        norms = batch_norms_after(context.model, batch.images[:1])
        with torch.no_grad():
            expected = context.model(batch.images[:1])
        check_supported(context.model, norms, self._module_map(context.model))
        merges = [((layer,), norm) for layer, norm in norms.items()]
        canonizers = [MergeBatchNorm(merges), Blocks(self.softmax)]
        composite = make_composite(self._module_map(context.model), canonizers)
        with composite.context(context.model) as model, tapped(model, context.layers) as taps, torch.enable_grad():
            logits = model(batch.images.detach().requires_grad_())
            _check_same_function(logits[:1].detach(), expected)
            start = nn.functional.one_hot(batch.labels, logits.shape[1]).to(logits.dtype)
            if self.output == "logit":
                start = start * logits.detach()
            names = [layer.name for layer in context.layers]
            relevance = torch.autograd.grad(logits, [taps[name] for name in names], grad_outputs=start)
        return dict(zip(names, relevance, strict=True))

    def _module_map(self, network: nn.Module) -> ModuleMap:
        if self.composite != "depth":
            return from_zennit(self.composite)
        rules = {depth: getattr(self, depth) for depth in _DEPTHS}
        projections = None if self.projections == "depth" else self.projections
        return by_depth(network, rules, projections, self.gamma_conv, self.gamma_linear)


def _check_same_function(logits: Tensor, expected: Tensor) -> None:
    """Raise where merged norms or replaced blocks compute something else than the network, as with shared modules."""
    deviation = float((logits - expected).abs().max() / expected.abs().max().clamp(min=1e-12))
    if not deviation <= _TOLERANCE:
        raise Unsupported(
            f"no rule for this network: with norms merged it gives other logits (by {deviation:.2g} of the largest); "
            "modules or weights that are used twice, or standardised, cannot be merged."
        )

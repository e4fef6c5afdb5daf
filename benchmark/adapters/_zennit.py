"""A composite of zennit as a criterion."""

import dataclasses
from abc import abstractmethod

import torch
from torch import Tensor, nn
from zennit.core import Composite

from pruneboard.benchmark.api import Batch, Context, PooledCriterion, Unsupported, tapped


@dataclasses.dataclass(frozen=True)
class ZennitCriterion(PooledCriterion):
    """Relevance at every tap by a composite of zennit, starting with 1 at the label's logit; pooled like all of them.

    Subclasses return the composite, with the canonizers it needs. Between its hooks gradients are plain, as zennit has
    it, so what a network computes outside of modules, such as the sum of a residual block, needs a canonizer that makes
    a module of it. A module that has parameters and no rule is declined, since a gradient that passes for relevance is
    worse than no score.
    """

    @abstractmethod
    def composite(self, context: Context) -> Composite:
        """Return the composite for this network."""

    def values(self, context: Context, batch: Batch) -> dict[str, Tensor]:
        """Propagate relevance back to every tap.

        Raises:
            Unsupported: a module with parameters has no rule.
        """
        with self.composite(context).context(context.model) as model:
            _check_covered(model)
            with tapped(model, context.layers) as taps, torch.enable_grad():
                logits = model(batch.images.detach().requires_grad_())
                start = nn.functional.one_hot(batch.labels, logits.shape[1]).to(logits.dtype)
                names = [layer.name for layer in context.layers]
                relevance = torch.autograd.grad(logits, [taps[name] for name in names], grad_outputs=start)
        return dict(zip(names, relevance, strict=True))


def _check_covered(model: nn.Module) -> None:
    for name, module in model.named_modules():
        has_parameters = next(module.parameters(recurse=False), None) is not None
        # A rule of zennit hooks the module in its pass forward.
        if has_parameters and not module._forward_pre_hooks and not module._forward_hooks:
            raise Unsupported(
                f"the composite has no rule for `{name}` ({type(module).__name__}); add one, or a canonizer that takes "
                "it away."
            )

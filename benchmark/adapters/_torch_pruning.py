"""An importance of Torch-Pruning as a criterion."""

import copy
import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneboard.benchmark.api import Context, Criterion, Layer, Unsupported

GradientOf = Literal["loss", "squared"]


@dataclasses.dataclass(frozen=True)
class TorchPruningCriterion(Criterion):
    """Scores by an importance of Torch-Pruning (Fang et al. 2023, arXiv 2301.12900) that looks at weights only.

    An importance scores a group of coupled channels; here a group is what belongs to the units of one layer alone: the
    outputs of the convolution or linear layer and the scale of the batch norm at its tap, or for heads their rows of
    the query, key and value projections and their columns of the output projection, averaged over a head's elements as
    Torch-Pruning does. Subclasses return a new importance.
    """

    @abstractmethod
    def importance(self) -> tp.importance.Importance:
        """Return the importance, with its options."""

    def score(self, context: Context) -> dict[str, Tensor]:
        """Score each layer's units as a group of their own.

        Raises:
            Unsupported: the importance has nothing to say of a layer.
        """
        # Importances may sort lists, and fill gradients, in place.
        model = copy.deepcopy(context.model)
        importance = self.importance()
        self.prepare(model, context)
        # The random importance draws from the global generator.
        seed = int(torch.randint(2**62, (), generator=context.generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return {layer.name: _score(importance, model, layer) for layer in context.layers}

    def prepare(self, model: nn.Module, context: Context) -> None:
        """Do what the importance needs on a copy of the network before it is asked; nothing by default."""


@dataclasses.dataclass(frozen=True)
class TorchPruningGradientCriterion(TorchPruningCriterion):
    """Scores by an importance of Torch-Pruning that reads the gradients of parameters; `needs` must be `labels`.

    Set this in every subclass:

    Attributes:
        gradient_of: what each parameter's `grad` holds: the gradient of the mean cross-entropy (`loss`), or the mean
            over images of the square of each image's own gradient (`squared`), which is the diagonal of the empirical
            Fisher matrix.
    """

    gradient_of: ClassVar[GradientOf]

    def prepare(self, model: nn.Module, context: Context) -> None:
        """Fill the gradients of all parameters."""
        model.requires_grad_(True)
        parameters = [parameter for parameter in model.parameters() if parameter.numel()]
        total = [torch.zeros_like(parameter) for parameter in parameters]
        n_images = len(context.reference.images)
        with torch.enable_grad():
            for batch in context.batches():
                losses = nn.functional.cross_entropy(model(batch.images), batch.labels, reduction="none")
                # One image's own gradient at a time, where it has to be squared.
                parts = [losses.sum()] if self.gradient_of == "loss" else list(losses)
                for number, loss in enumerate(parts, start=1):
                    gradients = torch.autograd.grad(
                        loss, parameters, retain_graph=number < len(parts), allow_unused=True, materialize_grads=True
                    )
                    for sum_, gradient in zip(total, gradients, strict=True):
                        sum_ += gradient if self.gradient_of == "loss" else gradient.square()
        for parameter, sum_ in zip(parameters, total, strict=True):
            parameter.grad = sum_ / n_images


def _score(importance: tp.importance.Importance, model: nn.Module, layer: Layer) -> Tensor:
    group = tp.Group()
    for module, prune, channels in _members(model, layer):
        node = tp.Node(module, None, layer.name)
        group.add_dep(tp.Dependency(prune, prune, node, node), channels)
        group[-1].root_idxs = list(range(len(channels)))
    scores: Tensor | None = importance(group)
    if scores is None:
        raise Unsupported(f"{type(importance).__name__} has nothing to score in layer `{layer.name}`.")
    return scores.detach().float().reshape(layer.n_units, -1).mean(dim=1)


def _members(model: nn.Module, layer: Layer) -> Iterator[tuple[nn.Module, Any, list[int]]]:
    """Yield what belongs to a layer's units: module, Torch-Pruning's function for it, and its channels."""
    module, tap = model.get_submodule(layer.name), model.get_submodule(layer.tap)
    channels = list(range(layer.n_units))
    if layer.granularity == "filters":
        yield module, tp.prune_conv_out_channels, channels
        if isinstance(tap, _BatchNorm):
            yield tap, tp.prune_batchnorm_out_channels, channels
    elif layer.granularity == "neurons":
        yield module, tp.prune_linear_out_channels, channels
    else:
        qkv = getattr(module, "qkv", None)
        if not isinstance(qkv, nn.Linear) or not isinstance(tap, nn.Linear):
            raise Unsupported(f"heads are read from `qkv` and `proj`, which `{layer.name}` does not have.")
        width = tap.in_features
        for part in range(3):
            yield qkv, tp.prune_linear_out_channels, list(range(part * width, (part + 1) * width))
        yield tap, tp.prune_linear_in_channels, list(range(width))

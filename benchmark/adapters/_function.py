"""A plain function as a criterion."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pruneboard.benchmark.api import Context, Criterion, CriterionError, Unsupported

ScoreFunction = Callable[[nn.Module, Tensor | None, Tensor | None], Mapping[str, Tensor]]
"""Network, normalised images (n_images, channels, height, width) and labels (n_images,) to scores by module name.

Images and labels are None as far as `needs` does not declare them. All of them come at once.
"""


@dataclasses.dataclass(frozen=True)
class FunctionCriterion(Criterion):
    """A criterion that calls a function, which subclasses set as `function = staticmethod(...)`.

    The function gives a score (n_units,) to each layer by the name of its module, of any floating-point type and on any
    device; modules that are no layers of this job may be among them.
    """

    @property
    @abstractmethod
    def function(self) -> ScoreFunction:
        """The function."""

    def score(self, context: Context) -> dict[str, Tensor]:
        """Call the function, and take the layers that are asked for.

        Raises:
            CriterionError: it gives no tensors by name.
            Unsupported: none of them is of a layer of this job.
        """
        images = labels = None
        if self.needs != "nothing":
            images = context.reference.images
        if self.needs == "labels":
            labels = context.reference.labels
        given = self.function(context.model, images, labels)
        if not isinstance(given, Mapping) or not all(isinstance(values, Tensor) for values in given.values()):
            raise CriterionError(
                f"the function of `{self.name}` must return a dict of module names to tensors, got "
                f"`{type(given).__name__}`; return one score per unit, (n_units,), for each layer."
            )
        wanted = [layer.name for layer in context.layers if layer.name in given]
        if not wanted:
            raise Unsupported(f"the function of `{self.name}` scores no layer with {context.layers[0].granularity}.")
        return {name: given[name].detach().float().clone() for name in wanted}

"""The source of a criterion that is no part of this project."""

MODULE = '''"""A criterion of elsewhere."""

import dataclasses

from pruneboard.benchmark.api import Criterion, unit_weights


@dataclasses.dataclass(frozen=True)
class Elsewhere(Criterion):
    """Norm of a unit's weights."""

    power: float = 1.0

    name, version, family, source, needs = "elsewhere", 1, "weights", "https://arxiv.org/abs/1608.08710", "nothing"
    presets = {"elsewhere_l2": {"power": 2.0}}

    def score(self, context):
        """Take the norm."""
        return {layer.name: unit_weights(context.model, layer).norm(p=self.power, dim=1) for layer in context.layers}
'''

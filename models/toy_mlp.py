"""The perceptrons of Yeom et al. 2019 for points in the plane.

Architecture: Pruning by Explaining, arXiv 1912.08881, section 4.1, as its code has it: 2-1000-1000-1000-K with ReLU and
dropout behind the first hidden layer, ReLU behind the second, and nothing behind the third, which is thus linear. The
weights are our own.
"""

from functools import partial

from torch import nn

from pruneboard.benchmark.api import Model, Recipe

_WIDTH = 1000


def _toy_mlp(n_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(2, _WIDTH),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.ReLU(),
        nn.Linear(_WIDTH, _WIDTH),
        nn.Linear(_WIDTH, n_classes),
    )


def _model(dataset: str, n_classes: int, epochs: int) -> Model:
    return Model(
        name=dataset,
        version=1,
        family="MLP",
        description=f"Perceptron 2-1000-1000-1000-{n_classes} for points in the plane, with a linear third layer.",
        source="https://arxiv.org/abs/1912.08881",
        licence="BSD-3-Clause",
        build=partial(_toy_mlp, n_classes),
        granularities=("neurons",),
        input_size=(2, 1, 1),
        mean=(0.0, 0.0),
        std=(1.0, 1.0),
        recipe=Recipe(
            dataset=dataset, epochs=epochs, batch_size=100, learning_rate=0.05, weight_decay=0.0, optimiser="sgd"
        ),
    )


toy_moons = _model("toy_moons", n_classes=2, epochs=40)
toy_circles = _model("toy_circles", n_classes=2, epochs=40)
toy_spiral = _model("toy_spiral", n_classes=4, epochs=50)

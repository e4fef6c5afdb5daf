"""What the networks for the 32 x 32 photographs of CIFAR-10 have in common that are trained by recipe."""

from dataclasses import replace

from pruneboard.benchmark.api import Recipe

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)

SGD = Recipe(
    dataset="cifar10-jpeg",
    epochs=100,
    batch_size=128,
    learning_rate=0.05,
    weight_decay=0.0005,
    label_smoothing=0.1,
    max_shift=4,
    flip=True,
    optimiser="sgd",
    mixed_precision=True,
    stored_as="float16",
)
"""Stochastic gradient descent for convolutional networks."""

ADAMW = replace(
    SGD,
    epochs=200,
    learning_rate=0.001,
    weight_decay=0.05,
    optimiser="adamw",
    policy="trivial",
    cutmix=0.5,
    clip_norm=1.0,
)
"""AdamW for transformers, whose images have to be changed more lest they learn them by heart."""

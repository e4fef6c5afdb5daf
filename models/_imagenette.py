"""What the networks for the photographs of Imagenette have in common that are trained on them by recipe.

Imagenette's labels are those of ImageNet, so the networks have 1,000 outputs; ten are trained, and judged among
themselves.
"""

from dataclasses import replace

from pruneboard.models import _cifar

INPUT_SIZE = (3, 128, 128)
N_CLASSES = 1000
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

SGD = replace(_cifar.SGD, dataset="imagenette", epochs=60, batch_size=64, learning_rate=0.05, max_shift=16)
"""Stochastic gradient descent for convolutional networks."""

ADAMW = replace(_cifar.ADAMW, dataset="imagenette", batch_size=64, max_shift=16)
"""AdamW for transformers."""

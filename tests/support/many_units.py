"""Scores a synthetic network with as many units as ResNet-50 from 10,000 images, and prints the memory that it took.

python many_units.py CRITERION run|tune
"""

import resource
import sys

import torch
from torch import nn

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Batch, Context
from pruneboard.benchmark.scoring import compute_contributions, score_all_shots
from pruneboard.benchmark.tune._objective import CACHE_BYTES, _SharedContributions
from pruneboard.benchmark.units import find_layers

N_IMAGES = 10_000


def network() -> nn.Module:
    """Make a network of 40 * (656 + 8) = 26,560 filters for images of one pixel, where a pass costs next to nothing."""
    torch.manual_seed(0)
    blocks = [m for _ in range(40) for m in (nn.Conv2d(8, 656, 1), nn.ReLU(), nn.Conv2d(656, 8, 1), nn.ReLU())]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(8, 2)).eval()


def peak_bytes() -> int:
    """Return the largest resident memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(name: str, how: str) -> None:
    """Print the number of units and of images, and the memory in bytes that scoring added at most."""
    torch.set_num_threads(1)
    model, generator = network(), torch.Generator().manual_seed(0)
    probe = torch.randn(1, 8, 1, 1, generator=generator)
    layers = find_layers(model, "filters", probe)
    images = torch.randn(N_IMAGES, 8, 1, 1, generator=generator)
    labels = torch.randint(2, (N_IMAGES,), generator=generator)
    shared = _SharedContributions(CACHE_BYTES)

    def score(n_images: int) -> None:
        data = Batch(images[:n_images], labels[:n_images])
        context = Context(model=model, layers=layers, generator=generator, data=data)
        contribute = shared.of_draw(n_images) if how == "tune" else compute_contributions
        score_all_shots(plugins.criteria().get(name), context, [n_images // 4, n_images // 2], probe, contribute)

    # The first batches bring the memory of the libraries and of one pass.
    score(200)
    before = peak_bytes()
    score(N_IMAGES)
    print(sum(layer.n_units for layer in layers), N_IMAGES, peak_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])

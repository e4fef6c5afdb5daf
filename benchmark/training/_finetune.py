"""Training what is left of a pruned network."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, Optimizer

from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.pruned import PrunedNetwork
from pruneboard.benchmark.schema import FineTuning
from pruneboard.benchmark.training._seeding import freeze_batch_norms, seeded


@dataclass(frozen=True)
class TrainingImages:
    """What a network is trained on.

    Attributes:
        stored: images as they are kept, (n_images, channels, height, width).
        labels: int64 (n_images,).
        prepare: turns some of `stored` into what the network takes.
    """

    stored: Tensor
    labels: Tensor
    prepare: Callable[[Tensor], Tensor]


def finetune(pruned: PrunedNetwork, recipe: FineTuning, data: TrainingImages, generator: torch.Generator) -> float:
    """Train what is left of a network, and return the mean loss of the last epoch, in nat.

    Args:
        pruned: its removed units stay zero; it is in eval mode again afterwards.
        recipe: how to train; every call begins with a fresh optimiser.
        data: images and labels.
        generator: decides the order of the images, on the CPU.

    Raises:
        ModelError: the loss is not finite.
    """
    network, device = pruned.network, data.labels.device
    optimiser = _finetuning_optimiser(network, recipe)
    network.train()
    if recipe.batch_norms == "frozen":
        freeze_batch_norms(network)
    total = 0.0
    try:
        with torch.enable_grad(), seeded(int(torch.randint(2**31, (1,), generator=generator)), device):
            for _ in range(recipe.epochs):
                total = 0.0
                order = torch.randperm(len(data.labels), generator=generator).to(device)
                for chosen in torch.split(order, recipe.batch_size):
                    logits = network(data.prepare(data.stored[chosen]))
                    loss = cross_entropy(logits, data.labels[chosen])
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    pruned.hold()
                    optimiser.step()
                    pruned.hold()
                    total += float(loss.detach()) * len(chosen)
                if not math.isfinite(total):
                    raise ModelError(
                        f"the loss of fine-tuning must be finite, got {total}; lower `learning_rate`, "
                        f"{recipe.learning_rate}, in the suite file."
                    )
    finally:
        network.eval()
        optimiser.zero_grad()
    return total / len(data.labels)


def _finetuning_optimiser(network: nn.Module, recipe: FineTuning) -> Optimizer:
    if recipe.optimiser == "sgd":
        return SGD(
            network.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
    return AdamW(network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)

"""Random changes of training images."""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from pruneboard.benchmark.api import Recipe

_IMAGES_PER_OPERATION = 8
"""Images that share an operation of TrivialAugment; with fewer, a GPU waits for the calls."""


class Augmentation:
    """What a recipe changes at random in the images of a step.

    Shifts and mirrors are drawn for each image from the generator given; TrivialAugment and CutMix are torchvision's
    and draw from torch's global one, which the caller seeds.

    Args:
        recipe: says what is changed.
        n_classes: outputs of the network.
    """

    def __init__(self, recipe: Recipe, n_classes: int) -> None:
        self._recipe = recipe
        self._trivial = v2.TrivialAugmentWide() if recipe.policy == "trivial" else None
        self._cutmix = v2.CutMix(num_classes=n_classes)

    def change(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images of the same shape and type, (n_images, channels, height, width), each changed by itself."""
        if self._trivial is not None:
            images = torch.cat([self._trivial(part) for part in torch.split(images, _IMAGES_PER_OPERATION)])
        if self._recipe.flip:
            images = random_flip(images, generator)
        return random_shift(images, self._recipe.max_shift, generator)

    def mix(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mix a batch with itself, sometimes; labels, int64 (n_images,), become probabilities (n_images, n_classes).

        Returns:
            Inputs, and labels or probabilities.
        """
        if self._recipe.cutmix == 0 or len(inputs) == 1:
            return inputs, labels
        if float(torch.rand((), generator=generator)) >= self._recipe.cutmix:
            return inputs, labels
        mixed, probabilities = self._cutmix(inputs, labels)
        return mixed, probabilities


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image from left to right with probability 1/2.

    Args:
        images: (n_images, channels, height, width).
        generator: on the CPU.
    """
    mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def random_shift(images: Tensor, max_shift: int, generator: torch.Generator) -> Tensor:
    """Shift each image by whole pixels in [-max_shift, max_shift] along each axis and fill with zeros.

    Args:
        images: (n_images, channels, height, width).
        max_shift: 0 leaves the images as they are and draws nothing.
        generator: on the CPU.
    """
    if max_shift == 0:
        return images
    n_images, n_channels, height, width = images.shape
    padded = pad(images, [max_shift] * 4)
    offsets = torch.randint(2 * max_shift + 1, (2, n_images, 1), generator=generator).to(images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    image = torch.arange(n_images, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(n_channels, device=images.device).view(1, -1, 1, 1)
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]

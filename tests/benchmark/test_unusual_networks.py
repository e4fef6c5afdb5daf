"""Networks of unusual parts: they are measured and cut, or refused in one line."""

import pytest
import torch
from torch import Tensor, nn

from networks import images
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.networks import check_network
from pruneboard.benchmark.physical import prune_coupled, prune_exactly
from pruneboard.benchmark.units import find_layers, masked


class _Shift(nn.Module):
    """Calls a tensor that is neither parameter nor buffer."""

    def forward(self, x: Tensor) -> Tensor:
        return x - torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)


class _InPlace(nn.Module):
    """Writes to the images it is given."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).flatten(1)[:, :4]


def _network(first: nn.Module, *between: nn.Module) -> nn.Module:
    last = (nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return nn.Sequential(first, nn.Conv2d(3, 8, 3), *between, nn.ReLU(), *last).eval()


@pytest.mark.parametrize(
    "parts", [(nn.Identity(), nn.BatchNorm2d(8, affine=False)), (_Shift(),)], ids=["affine=False", "a loose tensor"]
)
def test_a_norm_without_parameters_and_a_loose_tensor_are_cut(parts):
    model, x = _network(*parts), images(2)
    layers = find_layers(model, "filters", x[:1])
    masks = {layer.name: torch.arange(8) % 2 == 0 for layer in layers}
    pruned = prune_exactly(model, layers, masks, x)
    with masked(model, layers, masks), torch.no_grad():
        assert torch.allclose(pruned.network(x), model(x), atol=1e-5)


def test_a_cut_network_that_fails_prints_no_traceback(capsys):
    model, x = _network(nn.Identity(), nn.ChannelShuffle(2)), images(2)
    layers = find_layers(model, "filters", x[:1])
    scores = {layer.name: torch.arange(8.0) for layer in layers}
    with pytest.raises(ModelError, match="divisible by groups"):
        prune_coupled(model, layers, scores, x, rate=0.4, scope="global", generator=torch.Generator().manual_seed(0))
    assert capsys.readouterr().err == ""


def test_a_network_may_write_to_its_images():
    x = images(2)
    before = x.clone()
    check_network("mine", _InPlace(), x)
    assert torch.equal(x, before)

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from networks import images, tiny_network
from pruneboard.benchmark.counts import count_sizes
from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.networks import check_network, make_plain
from pruneboard.benchmark.units import find_layers


def _network(*, change=lambda conv: conv, last=()):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            *(change(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(6, 10), *last),
        ).eval()


class _Emits(nn.Module):
    """A network whose output is something else than logits."""

    def __init__(self, change):
        super().__init__()
        self.network, self.change = _network(), change

    def forward(self, x):
        return self.change(self.network(x))


class _Stubborn(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class _StubbornNorm(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(True)


def _with_value(value, buffer=False):
    network = tiny_network("vgg")
    tensor = next(network.buffers()) if buffer else network.features[0].weight
    tensor.data[0] = value
    return network


def _counting():
    seen = []
    return _Emits(lambda logits: logits + len(seen.append(0) or seen))


def _always_masked():
    network = _network()
    network.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    return network


@pytest.mark.parametrize("make", [_network, lambda: tiny_network("vit_heads"), _always_masked])
def test_a_sound_network_gives_its_logits(make):
    network, x = make().eval(), images(3)
    with torch.no_grad():
        assert torch.equal(check_network("mine", network, x), network(x))


REFUSED = {
    "NaN": (lambda: _with_value(float("nan")), "of `features.0.weight` of `mine` are NaN or infinite"),
    "infinity": (lambda: _with_value(float("inf")), "weights must be finite, but 27 of 162 values"),
    "NaN in a buffer": (lambda: _with_value(float("nan"), buffer=True), r"`features.1.running_mean` of `mine` are NaN"),
    "half": (lambda: _network().half(), "`0.weight` of `mine` is float16; end its `build` with `.float\\(\\)`"),
    "bfloat16": (lambda: _network().bfloat16(), "`0.weight` of `mine` is bfloat16"),
    "double": (lambda: _network().double(), "`0.weight` of `mine` is float64"),
    "dict": (lambda: _Emits(lambda logits: {"logits": logits}), "`mine` returns a dict; wrap it"),
    "tuple": (lambda: _Emits(lambda logits: (logits, logits)), "`mine` returns a tuple"),
    "nothing": (lambda: _Emits(lambda _: None), "`mine` returns a NoneType"),
    "half output": (lambda: _Emits(torch.Tensor.half), r"`mine` returns float16 \(3, 10\)"),
    "classes": (lambda: _Emits(lambda logits: logits.argmax(1)), r"`mine` returns int64 \(3,\)"),
    "a map": (lambda: _Emits(lambda logits: logits[..., None, None]), r"`mine` returns float32 \(3, 10, 1, 1\)"),
    "one row": (lambda: _Emits(lambda logits: logits.mean(0, keepdim=True)), r"`mine` returns float32 \(1, 10\)"),
    "NaN logits": (lambda: _Emits(lambda logits: logits.log()), "logits must be finite, but `mine` gives NaN"),
    "dropout": (lambda: _network(last=[_Stubborn(0.5)]), "`mine` draws at random or looks at the other images"),
    "rare dropout": (lambda: _network(last=[_Stubborn(1e-9)]), "`mine` draws at random"),
    "noise": (lambda: _Emits(lambda logits: logits + torch.randn(1)), "`mine` draws at random"),
    "counter": (_counting, "must give an image the same logits every time, but `mine`"),
    "batch norm": (lambda: _network(last=[_StubbornNorm(10)]), "`mine` fails on|looks at the other images"),
    "rows": (lambda: _Emits(lambda logits: logits.softmax(0)), "looks at the other images"),
    "fails": (lambda: _network(last=[nn.Linear(3, 2)]), r"`mine` fails on \(3, 3, 16, 16\): RuntimeError: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_measured_is_refused_by_name_in_one_line(name):
    make, message = REFUSED[name]
    with pytest.raises(ModelError, match=message) as error:
        check_network("mine", make(), images(3))

    assert "\n" not in str(error.value)


def _masked(conv):
    prune.random_unstructured(conv, "weight", amount=0.5)
    return prune.l1_unstructured(conv, "weight", amount=0.2)


REPARAMETRISED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight norm by a hook": weight_norm,
    "spectral norm by a hook": spectral_norm,
    "masks": _masked,
}


@pytest.mark.parametrize("name", REPARAMETRISED)
def test_weights_that_are_computed_become_plain_ones(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        built, fresh = (_network(change=REPARAMETRISED[name]) for _ in range(2))
    # As with a file of weights: those that the network was built with are not those that it has.
    state = {
        key: value * 1.5 if key.endswith(("weight_g", "original0", "bias")) else value
        for key, value in built.state_dict().items()
    }
    fresh.load_state_dict(state)
    built.load_state_dict(state)
    x = images(3)
    with torch.no_grad():
        expected = fresh(x)
    plain = make_plain(built)

    assert torch.allclose(check_network("mine", plain, x), expected, atol=1e-6)
    assert set(plain.state_dict()) == set(_network().state_dict())
    assert type(plain[0]) is nn.Conv2d
    copy.deepcopy(plain)
    layers = find_layers(plain, "filters", x[:1])
    everything = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}
    (size,) = count_sizes(plain, layers, [everything], x[:1])
    assert size.params == sum(parameter.numel() for parameter in _network().parameters())

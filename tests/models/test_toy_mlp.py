import pytest
import torch
from torch.nn.functional import linear, relu

from pruneboard.benchmark.counts import Size, count_sizes
from pruneboard.benchmark.data import open_dataset
from pruneboard.benchmark.evaluate import Evaluation, measure
from pruneboard.benchmark.plugins import models
from pruneboard.benchmark.ranking import n_removed
from pruneboard.benchmark.training import train
from pruneboard.benchmark.units import find_layers

CPU = torch.device("cpu")
N_CLASSES = {"toy_moons": 2, "toy_circles": 2, "toy_spiral": 4}


def built(name):
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return models().get(name).build().eval()


@pytest.mark.parametrize(("name", "n_classes"), N_CLASSES.items())
def test_the_networks_have_the_papers_three_thousand_neurons(name, n_classes):
    network, example = built(name), torch.zeros(1, 2, 1, 1)
    layers = find_layers(network, "neurons", example)
    all_kept = {layer.name: torch.ones(layer.n_units, dtype=torch.bool) for layer in layers}

    assert [layer.n_units for layer in layers] == [1000] * 3
    assert n_removed(0.3334, 3000) == 1000
    n_weights = 2 * 1000 + 2 * 1000 * 1000 + 1000 * n_classes
    assert count_sizes(network, layers, [all_kept], example) == (Size(n_weights + 3000 + n_classes, n_weights),)


@pytest.mark.parametrize("name", N_CLASSES)
def test_the_third_hidden_layer_is_linear(name):
    network = built(name)
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = zip(*[iter(network.parameters())] * 2, strict=True)
    points = torch.randn(5, 2, 1, 1, generator=torch.Generator().manual_seed(1))
    hidden = relu(linear(relu(linear(points.flatten(1), w1, b1)), w2, b2))

    torch.testing.assert_close(network(points), linear(linear(hidden, w3, b3), w4, b4))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("toy_moons", 0.999), ("toy_circles", 1.0), ("toy_spiral", 0.9495)])
def test_the_recipes_reach_the_published_accuracy_on_the_points_they_learn(name, published):
    plugin = models().get(name)
    train(plugin, device=CPU, out=plugin.made_file)
    split = open_dataset(name).split("train")
    images = plugin.normalise(split.inputs(size=plugin.input_size))
    accuracy = measure(plugin.load(), Evaluation(images, torch.from_numpy(split.labels)))

    assert accuracy.n_images == (2000 if name == "toy_spiral" else 1000)
    assert accuracy.top1 == pytest.approx(published, abs=0.01)

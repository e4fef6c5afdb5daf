"""Weights that a training begins with: those of a pretrained network, without its classifier."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pruneboard.benchmark import plugins
from pruneboard.benchmark.api import Model
from pruneboard.benchmark.assets import read_weights, tensors_digest
from pruneboard.benchmark.errors import ModelError


@dataclass(frozen=True)
class Start:
    """Weights of a pretrained network.

    Attributes:
        source: registered model, or name of the file, that they come from.
        digest: `tensors_digest` of them as they were read.
        state: tensors under the network's own keys.
    """

    source: str
    digest: str
    state: Mapping[str, Tensor]


def start_from_model(name: str) -> Start:
    """Return the weights of a registered model.

    Raises:
        UnknownNameError: there is no such model.
        AssetError, ModelError: it has no weights, or they are damaged.
    """
    model = plugins.models().get(name)
    network = model.load()
    return Start(name, model.weights_digest, network.state_dict())


def start_from_file(base: Model, path: Path) -> Start:
    """Return the weights of a file, which must be those of a network like `base`, with any number of classes.

    Raises:
        AssetError: the file is missing or damaged.
        ModelError: it holds the weights of another network.
    """
    state = read_weights(path)
    head = f"{classifier_of(base.build())[0]}."
    return Start(path.name, tensors_digest(state), base.with_weights(str(path), state, but=head).state_dict())


def classifier_of(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the name and the module of a network's classifier.

    Raises:
        ModelError: the network does not say which module that is.
    """
    find: Any = getattr(network, "get_classifier", None)
    if find is not None:
        classifier = find()
        for name, module in network.named_modules():
            if module is classifier:
                return name, module
    raise ModelError(
        f"a network must tell its classifier to be adapted, as timm's networks do, but `{type(network).__name__}` does "
        "not; give it a `get_classifier`, or choose another model."
    )


def begin_with(network: nn.Module, start: Start) -> None:
    """Give a network the weights that it starts from; its classifier stays as it is.

    Raises:
        ModelError: another weight is missing or has another shape.
    """
    prefix = f"{classifier_of(network)[0]}."
    kept = {key: value for key, value in network.state_dict().items() if key.startswith(prefix)}
    state = {key: value for key, value in start.state.items() if not key.startswith(prefix)}
    expected = network.state_dict().keys() - kept.keys()
    for key in sorted(expected | state.keys()):
        want = tuple(network.state_dict()[key].shape) if key in expected else "absent"
        got = tuple(state[key].shape) if key in state else "absent"
        if want != got:
            raise ModelError(
                f"a network must start from weights of its own architecture, but `{key}` is {got} in `{start.source}` "
                f"and {want} in the network; choose other weights, or images of the size that they were made for."
            )
    network.load_state_dict(state | kept)

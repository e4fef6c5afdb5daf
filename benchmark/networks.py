"""What a network must be before it is measured: plain and finite weights, and the same logits each time."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm

from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.failures import describe_error

_TOLERANCE = 1e-3
"""How far logits may differ with the images that are computed together, as a fraction of the largest."""


def make_plain(network: nn.Module) -> nn.Module:
    """Replace weights that are computed from others by what they are: weight and spectral norms, masks, and the like.

    Units are rows of weights, and a weight that is computed anew in each pass can neither be counted nor cut.

    Args:
        network: in eval mode, with its trained weights; changed in place.
    """
    for module in list(network.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type] # a ModuleDict
                parametrize.remove_parametrizations(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
            elif isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call] # the library is untyped
    return network


@torch.no_grad()
def check_network(name: str, network: nn.Module, images: Tensor) -> Tensor:
    """Check that a network is one whose logits can be measured, and return them, float32 (n_images, n_classes).

    Args:
        name: of the network, for messages.
        network: in eval mode.
        images: some that it accepts, (n_images, channels, height, width).

    Raises:
        ModelError: weights are not float32 or not finite; the output is no finite float32 (n_images, n_classes), or it
            changes from pass to pass, or with the other images of a batch.
    """
    for key, tensor in network.named_parameters():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ModelError(
                f"parameters must be float32, but `{key}` of `{name}` is {_short(tensor.dtype)}; end its `build` with "
                "`.float()`."
            )
    # A mask of an attention may be infinite.
    wrong = {key: ~torch.isfinite(tensor) for key, tensor in network.named_parameters()}
    wrong |= {key: torch.isnan(tensor) for key, tensor in network.named_buffers()}
    for key, places in wrong.items():
        if bool(places.any()):
            raise ModelError(
                f"weights must be finite, but {int(places.sum())} of {places.numel()} values of `{key}` of `{name}` "
                "are NaN or infinite; correct its weights."
            )
    state = _random_states(images)
    logits = _logits(name, network, images)
    parts = [images] if len(images) < 2 else [images[:1], images[1:]]
    again = torch.cat([_logits(name, network, part) for part in parts])
    if logits.shape != again.shape:
        raise ModelError(
            f"a network must give each image as many logits, but `{name}` gives {tuple(logits.shape)} to all of some "
            f"images and {tuple(again.shape)} to the same in two parts; mend its `forward`."
        )
    if not all(map(torch.equal, state, _random_states(images))) or not _agree(logits, again):
        raise ModelError(
            f"a network in eval mode must give an image the same logits every time, but `{name}` draws at random or "
            "looks at the other images: dropout or a batch norm that does not follow `eval()`; mend its modules."
        )
    return logits


def _logits(name: str, network: nn.Module, images: Tensor) -> Tensor:
    try:
        # It may write to what it is given.
        output = network(images.clone())
    # A network is foreign code.
    except Exception as error:
        raise ModelError(
            f"a network must take images of its `input_size`, but `{name}` fails on {tuple(images.shape)}: "
            f"{describe_error(error)}"
        ) from error
    if (
        not isinstance(output, Tensor)
        or output.dtype != torch.float32
        or output.ndim != 2
        or len(output) != len(images)
    ):
        found = f"a {type(output).__name__}"
        if isinstance(output, Tensor):
            found = f"{_short(output.dtype)} {tuple(output.shape)}"
        raise ModelError(
            f"a network must return its logits, float32 ({len(images)}, n_classes) for {len(images)} images, but "
            f"`{name}` returns {found}; wrap it in a module that returns the logits only."
        )
    if not bool(torch.isfinite(output).all()):
        raise ModelError(
            f"logits must be finite, but `{name}` gives NaN or infinite ones to images of the evaluation split; "
            "correct its weights."
        )
    return output


def _agree(logits: Tensor, again: Tensor) -> bool:
    return bool(((logits - again).abs() <= _TOLERANCE * logits.abs().amax(dim=1, keepdim=True)).all())


def _random_states(images: Tensor) -> Iterable[Tensor]:
    on_gpu = [torch.cuda.get_rng_state(images.device)] if images.device.type == "cuda" else []
    return [torch.get_rng_state(), *on_gpu]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

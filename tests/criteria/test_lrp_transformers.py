"""LRP on whole transformers and on MobileNetV2: against a network written anew, and by conservation."""

import math

import pytest
import timm
import torch
from timm.layers import RmsNorm, SwiGLU
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from networks import images, tiny_network
from pruneboard.benchmark.api import Batch, Context, Layer, Unsupported
from pruneboard.benchmark.checks import Snapshot
from pruneboard.benchmark.plugins import criteria
from pruneboard.benchmark.units import find_layers
from pruneboard.criteria.lrp import LRP

LABELS = torch.tensor([3, 0, 7])
BLOCKS = ("blocks.0", "blocks.1")


def _vit(**options):
    torch.manual_seed(6)
    defaults = {"embed_dim": 24, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "num_classes": 10}
    model = VisionTransformer(img_size=16, patch_size=4, **{**defaults, **options})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # As after training: no bias, token or scale is zero or one.
            if parameter.ndim < 2 or "token" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(6)
    return model.double().eval()


def _context(model, granularity):
    layers = find_layers(model, granularity, images(1).double())
    return Context(
        model=model, layers=layers, generator=torch.Generator(), data=Batch(images(3, seed=1).double(), LABELS)
    )


def _signed(criterion, context):
    """Relevance of every image and unit, summed over positions."""
    return {name: parts[..., 0] for name, parts in criterion.contributions(context, context.reference).items()}


def _watch(context, *places):
    """Also read the relevance of all tokens that leave these modules, as one more layer each."""
    extra = tuple(Layer(place, "neurons", 1, place, "output") for place in places)
    return Context(
        model=context.model, layers=(*context.layers, *extra), generator=context.generator, data=context.data
    )


class _Scaled(torch.autograd.Function):
    """The identity, with a gradient that is multiplied."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0], None


def _gelu(x):
    """GELU whose gradient is f(x) / x: input times gradient is handed on whole."""
    value = x.detach() * 0.5 * (1 + torch.erf(x.detach() / math.sqrt(2)))
    return x * (value / x.detach())


def _layer_norm(s, at, x):
    centred = x - x.mean(-1, keepdim=True)
    deviation = ((centred**2).mean(-1, keepdim=True) + 1e-6).sqrt().detach()
    return centred / deviation * s[f"{at}.weight"] + s[f"{at}.bias"]


def _linear(s, at, x):
    return x @ s[f"{at}.weight"].T + s[f"{at}.bias"]


def _gradient_times_input(model, x, labels, softmax):
    """AttnLRP and CP-LRP as activation times a modified gradient, in a network without modules or hooks.

    Rules of products and softmax become factors of gradients (Arras et al. 2025, arXiv 2502.14000); nothing is
    stabilised here.
    """
    s, found = dict(model.state_dict()), {}
    quarter, half = torch.tensor(0.25), torch.tensor(0.5)

    def tap(name, values):
        found[name] = values
        return values

    x = F.conv2d(x, s["patch_embed.proj.weight"], s["patch_embed.proj.bias"], stride=4).flatten(2).transpose(1, 2)
    x = (torch.cat([s["cls_token"].expand(len(x), -1, -1), x], 1) + s["pos_embed"]).requires_grad_()
    for at in BLOCKS:
        qkv = _linear(s, f"{at}.attn.qkv", _layer_norm(s, f"{at}.norm1", x))
        heads = []
        for head in range(4):
            q, k, v = (qkv[..., 24 * part + 6 * head : 24 * part + 6 * head + 6] for part in range(3))
            if softmax == "cp":
                q, k = q.detach(), k.detach()
            else:
                q, k, v = _Scaled.apply(q, quarter), _Scaled.apply(k, quarter), _Scaled.apply(v, half)
            heads.append((q @ k.transpose(1, 2) / math.sqrt(6)).softmax(-1) @ v)
        x = x + _linear(s, f"{at}.attn.proj", tap(f"{at}.attn", torch.cat(heads, -1)))
        hidden = tap(f"{at}.mlp.fc1", _linear(s, f"{at}.mlp.fc1", _layer_norm(s, f"{at}.norm2", x)))
        x = x + tap(f"{at}.mlp.fc2", _linear(s, f"{at}.mlp.fc2", _gelu(hidden)))
    logits = _linear(s, "head", _layer_norm(s, "norm", x)[:, 0])
    chosen = logits.gather(1, labels[:, None])
    gradients = torch.autograd.grad(chosen.sum(), list(found.values()))
    return {name: (a * g).detach() for (name, a), g in zip(found.items(), gradients, strict=True)}


@pytest.mark.parametrize("softmax", ["attn_lrp", "cp"])
@pytest.mark.parametrize("granularity", ["neurons", "heads"])
def test_relevance_in_a_transformer_is_activation_times_the_modified_gradient(granularity, softmax):
    model = _vit()
    context = _context(model, granularity)
    expected = _gradient_times_input(model, context.reference.images, LABELS, softmax)
    contributions = LRP(softmax=softmax, output="logit").contributions(context, context.reference)
    for layer in context.layers:
        values = expected[layer.name].reshape(3, 17, layer.n_units, -1).sum(-1)
        for part, pooled in enumerate((values.sum(1), values.abs().sum(1))):
            torch.testing.assert_close(
                contributions[layer.name][..., part], pooled, rtol=1e-3, atol=1e-3 * float(pooled.abs().max())
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"reg_tokens": 2},
        {"global_pool": "avg"},
        {"global_pool": "avg", "class_token": False, "pos_embed": "none"},
        {"global_pool": "avg", "reg_tokens": 1, "fc_norm": True},
        {"init_values": 0.1},
        {"qk_norm": True},
        {"pre_norm": True},
        {"norm_layer": RmsNorm},
    ],
    ids=str,
)
def test_cp_conserves_through_every_block_with_all_tokens_counted(options):
    """Without biases, what reaches the input of each block, summed over all tokens, is what started."""
    model = _vit(**options)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    before = "norm_pre" if options.get("pre_norm") else "patch_drop"
    context = _watch(_context(model, "neurons"), before, *BLOCKS)
    relevance = _signed(LRP(softmax="cp"), context)
    for place in (before, *BLOCKS):
        torch.testing.assert_close(relevance[place].sum(1), torch.ones(3).double(), rtol=1e-4, atol=1e-4)


def test_attn_lrp_loses_relevance_in_the_softmax_which_cp_does_not():
    model = _vit()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    context = _watch(_context(model, "neurons"), "patch_drop")
    assert (_signed(LRP(softmax="attn_lrp"), context)["patch_drop"].sum(1) - 1).abs().max() > 1e-2


def _mobilenet():
    """Without biases, and with norms that keep the activations of fifty layers from vanishing."""
    model = tiny_network("mobilenet").double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(16, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(7)))
        for name, values in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                values.zero_()
    return model.eval()


@pytest.mark.parametrize("rules", ["epsilon", "gamma"])
def test_relevance_is_conserved_through_every_block_of_mobilenet(rules):
    model = _mobilenet()
    layers = find_layers(model, "filters", images(1).double())
    places = [f"blocks.{stage}.{block}" for stage in range(7) for block in range(len(model.blocks[stage]))]
    extra = tuple(Layer(place, "filters", 1, place, "output") for place in places)
    context = Context(
        model=model,
        layers=(*layers, *extra),
        generator=torch.Generator(),
        data=Batch(torch.randn(3, 3, 64, 64).double(), LABELS),
    )
    relevance = _signed(LRP(low=rules, mid=rules, high=rules, fc=rules), context)
    skips = [name for name, module in model.named_modules() if getattr(module, "has_skip", False)]
    assert len(skips) == 10
    for place in places:
        torch.testing.assert_close(relevance[place].sum(1), torch.ones(3).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in criteria().names() if name.startswith("lrp")])
@pytest.mark.parametrize("kind", ["mobilenet", "vit_neurons", "vit_heads"])
def test_all_presets_leave_networks_bit_for_bit_and_treat_images_one_by_one(kind, name):
    model = tiny_network(kind)
    granularity = {"mobilenet": "filters", "vit_neurons": "neurons", "vit_heads": "heads"}[kind]
    layers = find_layers(model, granularity, images(1))
    context = Context(model=model, layers=layers, generator=torch.Generator(), data=Batch(images(3, 1), LABELS))
    with torch.no_grad():
        logits = model(images())
    snapshot, criterion = Snapshot(model), criteria().get(name)
    together = criterion.contributions(context, context.reference)
    snapshot.check()
    with torch.no_grad():
        assert torch.equal(model(images()), logits)
    alone = [criterion.contributions(context, Batch(images(3, 1)[i : i + 1], LABELS[i : i + 1])) for i in range(3)]
    for layer in layers:
        expected = torch.cat([part[layer.name] for part in alone])
        torch.testing.assert_close(together[layer.name], expected, rtol=1e-2, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_layer": SwiGLU}, r"no rule for SwiGLU `blocks\.\d\.mlp`; it needs a canonizer"),
        (
            {"global_pool": "map"},
            r"no rule for AttentionPoolLatent `attn_pool`; it needs a canonizer|attention pooling",
        ),
    ],
)
def test_parts_of_transformers_without_a_rule_are_named(options, message):
    with pytest.raises(Unsupported, match=message):
        criteria().get("lrp_epsilon").score(_context(_vit(**options), "heads"))


@pytest.mark.parametrize("name", ["resnetv2_50", "efficientnet_b0", "convnext_atto", "mixer_s32_224"])
def test_networks_of_other_families_are_declined_and_the_module_is_named(name):
    model = timm.create_model(name, num_classes=10).eval()
    layers = (Layer("head", "neurons", 10, "head", "output"),)
    size = 224 if "mixer" in name else 64
    data = Batch(torch.randn(1, 3, size, size), torch.tensor([1]))
    context = Context(model=model, layers=layers, generator=torch.Generator(), data=data)
    with pytest.raises(Unsupported, match=r"`.+`.*(needs|cannot be merged)"):
        criteria().get("lrp_epsilon").score(context)


def test_masks_of_attention_are_refused():
    class Causal(VisionTransformer):
        def forward(self, x):
            return self.forward_head(self.forward_features(x, is_causal=True))

    model = _vit()
    context = _context(model, "heads")
    assert LRP().score(context).keys() == {f"{at}.attn" for at in BLOCKS}
    model.forward = Causal.forward.__get__(model)
    with pytest.raises(Unsupported, match="no rule for attention with a mask"):
        LRP().score(context)

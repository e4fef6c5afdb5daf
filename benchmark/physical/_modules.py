"""The modules that a physically pruned network has besides those of torch; their source is part of what is written."""

import torch
from torch import Tensor, nn


class Gather(nn.Module):
    """Picks channels.

    Args:
        n_kept: number of channels picked.
        dim: dimension of the channels.

    Attributes:
        index: the channels, int64 (n_kept,).
    """

    index: Tensor

    def __init__(self, n_kept: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("index", torch.zeros(n_kept, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return the picked channels in the order of `index`."""
        return x.index_select(self.dim, self.index)


class Scatter(nn.Module):
    """Puts channels back to their places in a wider tensor that is zero elsewhere.

    Args:
        n_kept: number of channels given.
        width: number of channels returned.
        dim: dimension of the channels.
        bias: whether a learnt number is added to every channel of the wide tensor.

    Attributes:
        index: the channels' places, int64 (n_kept,).
    """

    index: Tensor

    def __init__(self, n_kept: int, width: int, dim: int, bias: bool = False) -> None:
        super().__init__()
        self.width = width
        self.dim = dim
        self.register_buffer("index", torch.zeros(n_kept, dtype=torch.int64))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the wide tensor."""
        shape = list(x.shape)
        shape[self.dim] = self.width
        wide = x.new_zeros(shape).index_copy_(self.dim, self.index, x)
        if self.bias is None:
            return wide
        return wide + (self.bias if self.dim == -1 else self.bias[:, None, None])


class Constant(nn.Module):
    """What a convolution or linear layer without weights emits: its bias, or zeros, at every position.

    Args:
        width: number of channels.
        bias: whether there is a learnt bias.
        reach: for a convolution, per axis, 2 * padding - dilation * (kernel - 1) - 1; None for a linear layer.
        stride: for a convolution, per axis.
    """

    def __init__(
        self, width: int, bias: bool, reach: tuple[int, int] | None = None, stride: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        self.width = width
        self.reach = reach
        self.stride = stride
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the constant in the shape that the layer would give for `x`."""
        if self.reach is None:
            zeros = x.new_zeros([*x.shape[:-1], self.width])
            return zeros if self.bias is None else zeros + self.bias
        height = (x.shape[2] + self.reach[0]) // self.stride[0] + 1
        width = (x.shape[3] + self.reach[1]) // self.stride[1] + 1
        zeros = x.new_zeros([x.shape[0], self.width, height, width])
        return zeros if self.bias is None else zeros + self.bias[:, None, None]

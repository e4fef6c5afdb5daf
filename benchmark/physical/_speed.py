"""Timing networks in turns, so that what slows the machine down slows all of them."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

_N_WARM_UP = 3


@dataclass(frozen=True)
class Latency:
    """Time of one pass.

    Attributes:
        median: of the rounds, in s.
        iqr: interquartile range of the rounds, in s.
        n_runs: passes that were timed.
    """

    median: float
    iqr: float
    n_runs: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How passes are timed.

    Attributes:
        threads: CPU threads.
        n_rounds: rounds; in each, every network has its turn.
        seconds: time of a turn at least, in s; a turn is several passes where one is shorter, and their mean counts.
    """

    threads: int
    n_rounds: int = 21
    seconds: float = 0.03


def time_in_turns(networks: Sequence[nn.Module], images: Tensor, timing: Timing) -> list[Latency]:
    """Time a pass of each network on the same images, one network after the other in every round.

    Args:
        networks: networks in eval mode on the device of the images.
        images: images they accept, (n_images, channels, height, width).
        timing: how.
    """
    # On import it looks for a compiler of CUDA code, and complains where there is none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils.benchmark import Timer

    timers = [
        Timer("network(images)", globals={"network": network, "images": images}, num_threads=timing.threads)
        for network in networks
    ]
    with torch.inference_mode():
        # The first passes choose kernels and fill caches.
        once = [min(timer.timeit(1).mean for _ in range(_N_WARM_UP)) for timer in timers]
        numbers = [max(1, math.ceil(timing.seconds / seconds)) for seconds in once]
        rounds = np.array(
            [
                [timer.timeit(number).mean for timer, number in zip(timers, numbers, strict=True)]
                for _ in range(timing.n_rounds)
            ]
        )
    low, median, high = np.percentile(rounds, (25, 50, 75), axis=0)
    return [
        Latency(float(median[i]), float(high[i] - low[i]), number * timing.n_rounds) for i, number in enumerate(numbers)
    ]

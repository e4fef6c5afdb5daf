"""A made-up but realistic result table, for tests of what comes after the measurements."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pruneboard.benchmark.schema import COLUMNS, SCHEMA_VERSION, Suite, SuiteModel, digest

# name: family, needs, source, quality (higher keeps accuracy for longer)
CRITERIA = {
    "random": ("control", "nothing", "", 0.15),
    "magnitude": ("weights", "nothing", "https://arxiv.org/abs/1608.08710", 0.36),
    "magnitude_l2": ("weights", "nothing", "https://arxiv.org/abs/1608.08710", 0.34),
    "bn_scale": ("weights", "nothing", "https://arxiv.org/abs/1708.06519", 0.30),
    "activation": ("activation", "images", "https://arxiv.org/abs/1607.03250", 0.38),
    "gradient": ("gradient", "labels", "https://arxiv.org/abs/1912.08881", 0.46),
    "taylor": ("gradient", "labels", "https://arxiv.org/abs/1611.06440", 0.52),
    "taylor_logit": ("gradient", "labels", "https://arxiv.org/abs/1611.06440", 0.50),
    "integrated_gradients": ("attribution", "labels", "https://arxiv.org/abs/1703.01365", 0.55),
    "lrp_epsilon": ("attribution", "labels", "https://arxiv.org/abs/1912.08881", 0.60),
    "lrp_epsilon_plus": ("attribution", "labels", "https://arxiv.org/abs/2408.12568", 0.66),
}
MODELS = {
    "digits_vgg": ("VGG", ("filters",), 0.986),
    "digits_resnet": ("ResNet", ("filters",), 0.979),
    "digits_vit": ("ViT", ("neurons", "heads"), 0.952),
}
N_IMAGES = 450


def make_suite(name: str = "digits", **changes: Any) -> Suite:
    values: dict[str, Any] = {
        "name": name,
        "version": 1,
        "title": "Handwritten digits",
        "description": "Three small networks on 8 x 8 handwritten digits.\nIt needs no download.",
        "datasets": ("digits",),
        "reference_split": "train",
        "evaluation_split": "test",
        "protocol": "one_shot",
        "scope": "global",
        "rates": tuple(round(0.05 * i, 2) for i in range(20)),
        "shots": (1, 2, 5, 10, 20),
        "seeds": (0, 1, 2, 3, 4),
        "criteria": tuple(CRITERIA),
        "models": tuple(SuiteModel(name=m, granularities=g) for m, (_, g, _) in MODELS.items()),
    }
    return Suite(**values | changes)


_EMPTY = ("finetuning", "task", "layers", "units_left")


def job_values(suite: Suite, model: str, granularity: str, criterion: str, seed: int) -> dict[str, Any]:
    family, needs, source, _ = CRITERIA.get(criterion, ("gradient", "labels", "", 0.4))
    values: dict[str, Any] = {column.name: "" if column.name in _EMPTY else None for column in COLUMNS}
    return values | {
        "schema_version": SCHEMA_VERSION,
        "key": digest([suite.name, model, granularity, criterion, seed]),
        "suite": suite.name,
        "suite_version": suite.version,
        "suite_digest": suite.digest,
        "protocol": suite.protocol,
        "dataset": "digits",
        "data_digest": digest("data"),
        "model": model,
        "model_family": MODELS.get(model, ("VGG",))[0],
        "weights_digest": digest(model),
        "granularity": granularity,
        "criterion": criterion,
        "criterion_family": family,
        "criterion_version": 1,
        "criterion_digest": digest(criterion),
        "criterion_needs": needs,
        "criterion_source": source,
        "parameters": "{}",
        "tuning": "",
        "seed": seed,
        "status": "ok",
        "reason": "",
        "n_units": 240,
        "layers": '{"first": 100, "second": 140}',
        "params_total": 52_000,
        "macs_total": 900_000,
        "score_seconds": 0.21,
        "score_peak_bytes": 12_000_000,
        "job_seconds": 1.4,
        "device": "cpu",
        "threads": 1,
        "python": "3.11.7",
        "torch": "2.9.0",
        "timm": "1.0.31",
        "zennit": "0.5.1",
        "pruneboard": "0.1.0",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "clean": True,
        "time_utc": f"2026-05-0{1 + seed % 9}T10:00:00Z",
    }


def unsupported_reason(model: str, criterion: str) -> str:
    if model != "digits_vit":
        return ""
    if criterion == "bn_scale":
        return "the network has no batch norm"
    return "no LRP rule for attention" if criterion.startswith("lrp_") else ""


def _rows(suite: Suite, criteria: Sequence[str]) -> Iterator[dict[str, Any]]:
    generator = np.random.default_rng(0)
    for model in suite.models:
        unpruned = MODELS[model.name][2]
        for granularity in model.granularities:
            for criterion in criteria:
                quality = CRITERIA.get(criterion, (0, 0, 0, 0.4))[3] + generator.normal(0, 0.03)
                needs = CRITERIA.get(criterion, (0, "labels"))[1]
                for seed in suite.seeds:
                    job = job_values(suite, model.name, granularity, criterion, seed)
                    reason = unsupported_reason(model.name, criterion)
                    if reason:
                        yield job | {"status": "unsupported", "reason": reason}
                        continue
                    shift = generator.normal(0, 0.025 if criterion == "random" else 0.012)
                    for shots in suite.shots:
                        luck = generator.normal(0, 0.03 / math.sqrt(shots)) - 0.06 / shots
                        own = shift if needs == "nothing" and criterion == "random" else 0.0
                        middle = quality + (own if needs == "nothing" else shift + luck)
                        floor = 1 / (1 + math.exp(middle / 0.09))
                        for rate in suite.rates:
                            kept = 1 / (1 + math.exp((rate - middle) / 0.09))
                            accuracy = 0.1 + (unpruned - 0.1) * kept / (1 - floor) if rate else unpruned
                            n_right = round(min(accuracy, 1.0) * N_IMAGES)
                            yield job | {
                                "shots": shots,
                                "rate": rate,
                                "n_units_removed": math.floor(rate * 240),
                                "top1": n_right / N_IMAGES,
                                "top5": min(1.0, n_right / N_IMAGES + 0.2),
                                "cross_entropy": 2.3 * (1 - kept),
                                "n_images": N_IMAGES,
                                "params_left": int(52_000 * (1 - rate)),
                                "macs_left": int(900_000 * (1 - rate)),
                                "units_left": f"{100 - math.floor(rate * 100)} {140 - math.floor(rate * 140)}",
                            }


def make_rows(suite: Suite | None = None, *, criteria: Sequence[str] = ()) -> pd.DataFrame:
    suite = suite or make_suite()
    return table(list(_rows(suite, criteria or suite.criteria)))


def table(records: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(records, columns=[column.name for column in COLUMNS])

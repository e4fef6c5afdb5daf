"""A criterion that is known by what it declares, and runs in a process of its own."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruneboard.benchmark.api import Context, Criterion, Scores, SearchSpace
from pruneboard.benchmark.checks import Scoring, check_scores
from pruneboard.benchmark.discovery import Source
from pruneboard.benchmark.errors import ForeignError
from pruneboard.benchmark.foreign._exchange import Request, Task, ask, number
from pruneboard.benchmark.schema import as_hashable


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a foreign criterion declares.

    Attributes:
        registered: name that it is registered under, of the class or a preset.
        name: name of its class.
        version: rises when scores change.
        family: one of `schema.FAMILIES`.
        source: DOI or URL of the publication.
        needs: what it looks at.
        deterministic: whether the same context gives the same scores without the generator.
        tunable: whether it declares a search space.
        code: name of its class in Python.
        documentation: docstring of its class.
    """

    registered: str
    name: str
    version: int
    family: str
    source: str
    needs: str
    deterministic: bool
    tunable: bool
    code: str
    documentation: str


@dataclass(frozen=True)
class ForeignCriterion(Criterion):
    """A criterion whose code this process never imports.

    Attributes:
        facts: what it declares.
        origin: where its code lies.
        digest: sha256 of its source when it was described.
        parameters: its parameters by name.
    """

    facts: Facts
    origin: Source
    digest: str
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("name", "version", "family", "source", "needs", "deterministic"):
            object.__setattr__(self, name, getattr(self.facts, name))

    def score(self, context: Context) -> Scores:
        """Have its process score from all reference images.

        Raises:
            Unsupported: it declines.
            CriterionError: its scores break the contract.
            ForeignError: it fails.
        """
        return self.score_all_shots(context, (1,), context.data.images[:1] if context.data else None).by_shots[1]

    def score_all_shots(
        self,
        context: Context,
        shots: Sequence[int],
        probe: Tensor | None,
        kept: Mapping[str, Tensor] | None = None,
    ) -> Scoring:
        """Have its process score at several numbers of shots, and check what comes back.

        Args:
            context: as `scoring.score_all_shots` takes it.
            shots: numbers of shots in increasing order.
            probe: images whose logits must be the same before and after.
            kept: layer name to bool (n_units,), the units that earlier steps left; None for all.

        Raises:
            Unsupported: it declines.
            CriterionError: its scores break the contract.
            ForeignError: it fails.
        """
        # Without data the same scores serve every number of shots.
        asked = tuple(shots) if context.data is not None else tuple(shots)[:1]
        n_values = len(asked) * sum(layer.n_units for layer in context.layers)
        reply = ask(self._request("score", asked), {**_sent(context), "probe": probe, "kept": kept}, n_values=n_values)
        expected = {_tensor_name(k, layer.name) for k in asked for layer in context.layers}
        if reply.tensors.keys() != expected:
            raise ForeignError("the reply of a plugin's process must hold the scores of all layers and no others.")
        by_shots: dict[int, Scores] = {}
        for k in asked:
            scores = {layer.name: reply.tensors[_tensor_name(k, layer.name)] for layer in context.layers}
            check_scores(scores, context.layers)
            by_shots[k] = scores
        peak = reply.content.get("peak_bytes")
        return Scoring(
            by_shots=by_shots if context.data is not None else dict.fromkeys(shots, by_shots[asked[0]]),
            seconds=number(reply.content.get("seconds"), "`seconds`"),
            peak_bytes=None if peak is None else math.floor(number(peak, "`peak_bytes`")),
        )

    def search_space(self, context: Context) -> SearchSpace:
        """Have its process name the search space.

        Raises:
            Unsupported: it declines the network.
            ForeignError: it fails.
        """
        space = ask(self._request("space"), _sent(context)).content
        if not all(isinstance(values, list) for values in space.values()):
            raise ForeignError("a search space must give each parameter a list of values; correct it.")
        return {str(name): as_hashable(values) for name, values in space.items()}

    def _request(self, task: Task, shots: Sequence[int] = ()) -> Request:
        if self.origin.digest() != self.digest:
            raise ForeignError(
                f"the source of a criterion must stay as it was when the run began, but that of `{self.name}` "
                f"({self.origin.origin}) changed; run again."
            )
        return Request(
            task=task,
            source=self.origin,
            criterion=self.facts.registered,
            parameters=dict(self.parameters),
            shots=shots,
        )


def named_scores(by_shots: Mapping[int, Scores]) -> dict[str, Tensor]:
    """Return scores under the names that a reply gives them."""
    return {_tensor_name(k, name): values for k, scores in by_shots.items() for name, values in scores.items()}


def received_context(payload: Mapping[str, Any]) -> Context:
    """Return the context that was sent."""
    generator = torch.Generator()
    generator.set_state(payload["generator"])
    return Context(
        model=payload["model"],
        layers=payload["layers"],
        generator=generator,
        data=payload["data"],
        batch_size=payload["batch_size"],
    )


def _sent(context: Context) -> dict[str, Any]:
    return {
        "model": context.model,
        "layers": context.layers,
        "generator": context.generator.get_state(),
        "data": context.data,
        "batch_size": context.batch_size,
    }


def _tensor_name(shots: int, layer: str) -> str:
    return f"{shots}/{layer}"

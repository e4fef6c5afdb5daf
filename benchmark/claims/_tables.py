"""Claims as tables for publication."""

from collections.abc import Iterable, Sequence

import pandas as pd

from pruneboard.benchmark.claims._verdicts import ClaimResult

_CLAIM_COLUMNS = (
    *("claim", "verdict", "contrast", "contrast_verdict", "effect", "effect_low", "effect_high"),
    *("other_networks_low", "other_networks_high", "n_networks", "n_supported", "n_contradicted"),
    *("criterion", "metric", "above", "below", "text", "paper", "source"),
)
_NETWORK_COLUMNS = (
    *("claim", "contrast", "suite", "model", "granularity", "n_seeds"),
    *("effect", "effect_low", "effect_high", "p_value", "p_corrected", "verdict"),
)


def claim_table(results: Sequence[ClaimResult]) -> pd.DataFrame:
    """Return a line per claim and contrast; effects in percentage points, empty where nothing was measured."""
    lines: list[dict[str, object]] = []
    for result in results:
        claim = result.claim
        for contrast in result.contrasts:
            effect = contrast.effect
            low, high = contrast.other_networks or (None, None)
            lines.append(
                {
                    "claim": claim.name,
                    "verdict": result.verdict,
                    "contrast": contrast.name,
                    "contrast_verdict": contrast.verdict,
                    "effect": effect and effect.mean,
                    "effect_low": effect and effect.low,
                    "effect_high": effect and effect.high,
                    "other_networks_low": low,
                    "other_networks_high": high,
                    "n_networks": len(contrast.networks),
                    "n_supported": contrast.count("supported"),
                    "n_contradicted": contrast.count("contradicted"),
                    "criterion": claim.criterion,
                    "metric": claim.metric,
                    "above": claim.above,
                    "below": claim.below,
                    "text": claim.text,
                    "paper": claim.paper,
                    "source": claim.source,
                }
            )
    return _table(lines, _CLAIM_COLUMNS)


def network_table(results: Sequence[ClaimResult]) -> pd.DataFrame:
    """Return a line per claim, contrast and network; effects in percentage points."""
    lines: list[dict[str, object]] = [
        {
            "claim": result.claim.name,
            "contrast": contrast.name,
            "suite": network.suite,
            "model": network.model,
            "granularity": network.granularity,
            "n_seeds": network.n_seeds,
            "effect": network.effect.mean,
            "effect_low": network.effect.low,
            "effect_high": network.effect.high,
            "p_value": network.p_value,
            "p_corrected": network.p_corrected,
            "verdict": network.verdict,
        }
        for result in results
        for contrast in result.contrasts
        for network in contrast.networks
    ]
    return _table(lines, _NETWORK_COLUMNS)


def _table(lines: Iterable[dict[str, object]], columns: tuple[str, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(lines), columns=list(columns))

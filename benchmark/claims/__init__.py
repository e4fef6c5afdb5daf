"""Claims of papers, as contrasts of rows with verdicts."""

from pruneboard.benchmark.claims._load import Claim, load_claims
from pruneboard.benchmark.claims._tables import claim_table, network_table
from pruneboard.benchmark.claims._verdicts import (
    ClaimResult,
    Contrast,
    Effect,
    NetworkResult,
    Verdict,
    evaluate_claims,
)

__all__ = [
    "Claim",
    "ClaimResult",
    "Contrast",
    "Effect",
    "NetworkResult",
    "Verdict",
    "claim_table",
    "evaluate_claims",
    "load_claims",
    "network_table",
]

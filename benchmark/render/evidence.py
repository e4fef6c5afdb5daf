"""Which rows stand behind the effect of a claim."""

from collections.abc import Iterator, Sequence

from pruneboard.benchmark.claims import Claim, Contrast, NetworkResult
from pruneboard.benchmark.render.links import Network, pooled_link
from pruneboard.benchmark.render.views import SuiteView
from pruneboard.benchmark.schema import display_name


def claim_link(claim: Claim, contrast: Contrast, networks: Sequence[NetworkResult], views: Sequence[SuiteView]) -> str:
    """Return the address of the rows of both sides of a contrast.

    Args:
        claim: the claim.
        contrast: one of its contrasts.
        networks: those of its networks whose effect it is.
        views: views of the suites.
    """
    rivals = [contrast.name] if claim.kind in ("criteria", "protocols") else []
    found = {network for result in networks for network in _both_sides(claim, result, views)}
    shots = ".".join(map(str, claim.shots)) or None
    return pooled_link(sorted(found), *map(display_name, [claim.criterion, *rivals]), images=shots)


def _both_sides(claim: Claim, result: NetworkResult, views: Sequence[SuiteView]) -> Iterator[Network]:
    yield result.suite, result.model, result.granularity
    protocols = {claim.protocol, claim.other_protocol}
    for view in views:
        for section in view.sections:
            for head in section.models:
                same = (head.name, section.granularity) == (result.model, result.granularity)
                other_protocol = claim.kind == "protocols" and same and view.suite.protocol in protocols
                other_family = view.suite.name == result.suite and head.family in claim.other_families
                if other_protocol or (
                    other_family and section.granularity in (claim.granularities or (section.granularity,))
                ):
                    yield view.suite.name, head.name, section.granularity

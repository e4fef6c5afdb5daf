"""Criteria on the command line: by name, or by the path of a file; of the suite, or from elsewhere."""

import dataclasses
from collections.abc import Sequence

from pruneboard.benchmark.schema import Suite


def with_criteria(suite: Suite, given: Sequence[str]) -> tuple[Suite, tuple[str, ...]]:
    """Return the suite with those criteria that it does not list, and the names of all that are given.

    Which criteria a suite lists decides what runs by default, and nothing about any job. A name that is registered
    nowhere is left for whoever looks it up.

    Args:
        suite: the suite.
        given: names, or paths of plugin files, all of whose criteria are meant.

    Raises:
        PruneboardError: a file cannot be used.
    """
    if not given:
        return suite, ()
    from pruneboard.benchmark import plugins

    names = plugins.resolve_criteria(given)
    extra = [name for name in names if name not in suite.criteria and name in plugins.criteria().names()]
    return dataclasses.replace(suite, criteria=(*suite.criteria, *extra)), names

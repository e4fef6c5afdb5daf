"""Every exception of pruneboard, under one root."""


class PruneboardError(Exception):
    """Root of all errors that pruneboard raises on purpose; the message names the rule, the value and the remedy."""


class UnknownNameError(PruneboardError):
    """A plugin, suite or data set of this name does not exist."""


class SuiteError(PruneboardError):
    """A suite file breaks a rule of the suite format."""


class AssetError(PruneboardError):
    """A file of data or weights is missing, damaged, or not the one that was asked for."""


class ModelError(PruneboardError):
    """A network cannot be built, loaded, or its units cannot be found."""


class CriterionError(PruneboardError):
    """A criterion broke its contract: shapes, names, finiteness, or it changed the model."""


class Unsupported(PruneboardError):  # noqa: N818 - not an error of anyone: the reason becomes a table cell
    """A criterion declines a model or granularity; its message is the reason shown in the tables."""


class StoreError(PruneboardError):
    """A result file cannot be written or read, or was not written by a known version."""


class TableError(PruneboardError):
    """A table of rows does not allow the statistic that was asked for."""


class SiteError(PruneboardError):
    """The site cannot be built from these tables."""

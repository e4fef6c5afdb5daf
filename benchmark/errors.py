"""Every exception of pruneboard, under one root."""


class PruneboardError(Exception):
    """Root of all errors that pruneboard raises on purpose; the message names the rule, the value and the remedy."""


class UnknownNameError(PruneboardError):
    """A plugin, suite or data set of this name does not exist."""


class PluginError(PruneboardError):
    """A plugin cannot be imported, or does not declare what every plugin has to."""


class SuiteError(PruneboardError):
    """A suite file breaks a rule of the suite format."""


class AssetError(PruneboardError):
    """A file of data or weights is missing, damaged, or not the one that was asked for."""


class ModelError(PruneboardError):
    """A network cannot be built, loaded, or its units cannot be found."""


class CriterionError(PruneboardError):
    """A criterion broke its contract: shapes, names, finiteness, or it changed the model."""


class ForeignError(PruneboardError):
    """Code from elsewhere gave no result; the message is the reason.

    Args:
        message: the reason, in one line.
        trace: the traceback of the failure in its own process.
        out_of_memory: whether memory ran out, so that a smaller call may succeed.
        replied: whether its process said so, rather than ending without a reply.
    """

    def __init__(self, message: str, *, trace: str = "", out_of_memory: bool = False, replied: bool = False) -> None:
        super().__init__(message)
        self.trace = trace
        self.out_of_memory = out_of_memory
        self.replied = replied


class Unsupported(PruneboardError):  # noqa: N818 - not an error of anyone: the reason becomes a table cell
    """A criterion declines a model or granularity; its message is the reason shown in the tables."""


class StoreError(PruneboardError):
    """A result file cannot be written or read, or was not written by a known version."""


class UnreadableFileError(StoreError):
    """One result file cannot be used; `why` completes "the file is ..." and names no path.

    Args:
        message: rule, file and remedy.
        why: what is wrong with the file, in a few words.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why

    def __reduce__(self) -> tuple[type["UnreadableFileError"], tuple[str, str]]:
        return type(self), (str(self), self.why)


class DamagedFileError(UnreadableFileError):
    """A result file is cut off, altered or foreign."""


class NewerFileError(UnreadableFileError):
    """A result file was written by a newer version of pruneboard."""


class CheckpointError(StoreError):
    """A step of a job cannot be kept, so that the run cannot go on."""


class TableError(PruneboardError):
    """A table of rows does not allow the statistic that was asked for."""


class SiteError(PruneboardError):
    """The site cannot be built from these tables."""


class ClaimError(PruneboardError):
    """A list of claims breaks a rule of its format."""

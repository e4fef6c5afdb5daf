"""Whether published results are what they claim to be: everything that is claimed is derived again from raw rows."""

from pruneboard.benchmark.validation._cards import reference_fault, statement_faults
from pruneboard.benchmark.validation._findings import Finding, Level, Report
from pruneboard.benchmark.validation._folder import validate_folder, validate_suite
from pruneboard.benchmark.validation._rerun import (
    MEAN_TOLERANCE,
    POINT_TOLERANCE,
    drift,
    drift_fault,
    job_of,
    rerun_faults,
    same_source,
    sample,
)

__all__ = [
    "MEAN_TOLERANCE",
    "POINT_TOLERANCE",
    "Finding",
    "Level",
    "Report",
    "drift",
    "drift_fault",
    "job_of",
    "reference_fault",
    "rerun_faults",
    "same_source",
    "sample",
    "statement_faults",
    "validate_folder",
    "validate_suite",
]

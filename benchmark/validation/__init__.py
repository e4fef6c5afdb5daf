"""Whether published results are what they claim to be: everything that is claimed is derived again from raw rows."""

from pruneboard.benchmark.validation._findings import Finding, Level, Report
from pruneboard.benchmark.validation._folder import validate_folder, validate_suite

__all__ = ["Finding", "Level", "Report", "validate_folder", "validate_suite"]

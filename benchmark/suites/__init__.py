"""Suite files to suites, and suites to jobs."""

from pruneboard.benchmark.suites._load import expand, load_suite, suite_names, suite_path
from pruneboard.benchmark.suites._published import load_published

__all__ = ["expand", "load_published", "load_suite", "suite_names", "suite_path"]

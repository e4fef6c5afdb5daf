"""Suite files to suites, and suites to jobs."""

from pruneboard.benchmark.suites._load import expand, load_suite, suite_names, suite_path

__all__ = ["expand", "load_suite", "suite_names", "suite_path"]

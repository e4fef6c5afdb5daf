"""What a validation finds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One rule that results break.

    Attributes:
        level: an `error` is not published; a `warning` is told to who reads the results.
        path: the file.
        message: the rule, the offending value and the remedy.
    """

    level: Level
    path: Path
    message: str


@dataclass
class Report:
    """What was looked at and what was found.

    Attributes:
        findings: everything that was found.
        n_jobs: jobs looked at, by suite.
        n_rows: rows looked at, by suite.
        notes: what a reader should know that is no fault, such as a folder that holds no suite.
    """

    findings: list[Finding] = field(default_factory=list)
    n_jobs: dict[str, int] = field(default_factory=dict)
    n_rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[Finding]:
        """What makes the results invalid."""
        return [finding for finding in self.findings if finding.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """What is told to the reader."""
        return [finding for finding in self.findings if finding.level == "warning"]

    def error(self, path: Path, message: str) -> None:
        """Add an error."""
        self.findings.append(Finding("error", path, message))

    def warn(self, path: Path, message: str) -> None:
        """Add a warning."""
        self.findings.append(Finding("warning", path, message))

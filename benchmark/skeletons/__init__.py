"""Skeletons of criteria that `pruneboard new` writes: working ones, to be changed step by step."""

import keyword
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pruneboard.benchmark.errors import PluginError, StoreError
from pruneboard.benchmark.registry import name_fault

Kind = Literal["images", "weights", "function"]

_FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Skeleton:
    """What is to be written.

    Attributes:
        name: registered name of the criterion.
        kind: what it scores by: a value at every position of an image's activations, weights, or a function of its own.
        author: who writes it, for the metadata of a package.
    """

    name: str
    kind: Kind = "images"
    author: str = ""

    def __post_init__(self) -> None:
        if (fault := name_fault("criterion", self.name)) is not None:
            raise PluginError(fault)
        if keyword.iskeyword(self.name) or self.name in sys.stdlib_module_names:
            raise PluginError(
                "the name of a criterion must be neither a word nor a module of Python, got "
                f"`{self.name}`; add a word to it."
            )

    @property
    def class_name(self) -> str:
        """Name of the class."""
        return "".join(part.capitalize() for part in self.name.split("_"))

    def files(self, folder: Path) -> dict[Path, str]:
        """Return the files for a folder: in a checkout beside the other criteria, elsewhere side by side."""
        if (folder / "criteria" / "magnitude.py").is_file():
            module = f"pruneboard.criteria.{self.name}"
            source, test = folder / "criteria", folder / "tests" / "criteria"
        else:
            module, source, test = self.name, folder, folder
        return {
            source / f"{self.name}.py": self._filled(f"{self.kind}.py.txt", module),
            test / f"test_{self.name}.py": self._filled(f"test_{self.kind}.py.txt", module),
        }

    def package_files(self, folder: Path) -> dict[Path, str]:
        """Return the files of a package of its own, in a new folder."""
        module = f"pruneboard_{self.name}"
        top = folder / f"pruneboard-{self.name.replace('_', '-')}"
        return {
            top / "pyproject.toml": self._filled("pyproject.toml.txt", module),
            top / "README.md": self._filled("README.md.txt", module),
            top / f"{module}.py": self._filled(f"{self.kind}.py.txt", module),
            top / f"test_{self.name}.py": self._filled(f"test_{self.kind}.py.txt", module),
        }

    def _filled(self, template: str, module: str) -> str:
        text = (_FOLDER / template).read_text(encoding="utf-8")
        values = {
            "NAME": self.name,
            "CLASS": self.class_name,
            "MODULE": module,
            "DISTRIBUTION": f"pruneboard-{self.name.replace('_', '-')}",
            "AUTHOR": self.author or "Your name",
        }
        for key, value in values.items():
            text = text.replace(f"@{key}@", value)
        return text


def write_files(files: dict[Path, str]) -> Iterator[Path]:
    """Write new files, and yield each; none is written when one of them exists.

    Raises:
        StoreError: a file exists, or a folder cannot be written.
    """
    for path in files:
        if path.exists():
            raise StoreError(f"`{path}` must not be there yet; choose another name, or remove it first.")
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreError(f"`{path}` must be writable, but {error.strerror}; choose another folder.") from error
        yield path

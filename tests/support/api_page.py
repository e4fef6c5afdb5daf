"""The reference of what plugin authors import, made from the docstrings: `python tests/support/api_page.py`."""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
MODULES = ("pruneboard.benchmark.api", "pruneboard.benchmark.adapters", "pruneboard.benchmark.contract")

_HEAD = """# Reference for plugin authors

What a criterion or a model imports, from the docstrings of the code; `python tests/support/api_page.py` writes this page.
[submit.md](submit.md) tells how the pieces go together.
"""


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(part for name in MODULES for part in _module(importlib.import_module(name)))])


def _module(module: ModuleType) -> Iterator[str]:
    yield f"## {module.__name__}\n\n{inspect.getdoc(module)}\n"
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        if inspect.isclass(value) and value.__module__.startswith("pruneboard"):
            yield from _class(name, value)
        elif inspect.isfunction(value):
            yield f"### `{name}{_signature(value)}`\n\n{_text(value)}\n"
        else:
            yield f"### `{name}`\n\n{_constant(module, name, value)}\n"


def _class(name: str, value: type) -> Iterator[str]:
    shown = "" if inspect.isabstract(value) or issubclass(value, Exception) else _signature(value)
    bases = [base.__name__ for base in value.__bases__ if base.__module__.startswith("pruneboard")]
    yield f"### class `{name}{shown}`\n\n" + (f"A `{bases[0]}`. " if bases else "") + f"{_text(value)}\n"
    for member, function in vars(value).items():
        if member.startswith("_") or not (inspect.isfunction(function) or isinstance(function, property)):
            continue
        call = "" if isinstance(function, property) else _signature(function)
        own = function.fget if isinstance(function, property) else function
        what = "must be given: " if getattr(own, "__isabstractmethod__", False) else ""
        yield f"- **`{member}{call}`** {what}{_indented(_text(own))}"
    yield ""


def _signature(value: Any) -> str:
    text = str(inspect.signature(value)).replace("'", "")
    text = re.sub(
        r"pruneboard\.[a-z_.]+\.|torch\.nn\.modules\.module\.|collections\.abc\.|typing\.|dataclasses\.|pathlib\.(_local\.)?",
        "",
        text,
    )
    text = re.sub(r"<factory>|<class (\w+)>", r"\1", text)
    return re.sub(r" at 0x[0-9a-f]+", "", text).replace("(self, ", "(").replace("(self)", "()")


def _text(value: Any) -> str:
    """Return a docstring with its sections as lists."""
    lines = (inspect.getdoc(value) or "").splitlines()
    answer: list[str] = []
    for line in lines:
        if re.fullmatch(r"(Args|Attributes|Returns|Yields|Raises):", line):
            answer.append(f"{line[:-1]}:\n")
        elif match := re.match(r"    ([\w, ]+): (.*)", line):
            answer.append(f"- `{match[1]}`: {match[2]}")
        else:
            answer.append(line.strip() if line.startswith("        ") else line)
    return "\n".join(answer)


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ").strip()


def _constant(module: ModuleType, name: str, value: Any) -> str:
    """Return the text below a constant, in whichever module it stands, or else its value."""
    for file in _sources(module):
        body = ast.parse(file.read_text(encoding="utf-8")).body
        for before, after in zip(body, body[1:], strict=False):
            targets = before.targets if isinstance(before, ast.Assign) else [getattr(before, "target", None)]
            named = any(isinstance(target, ast.Name) and target.id == name for target in targets)
            if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return inspect.cleandoc(after.value.value)
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return re.sub(r"pruneboard\.[a-z_.]+\.|typing\.", "", str(value))


def _sources(module: ModuleType) -> list[Path]:
    own = Path(module.__file__ or "")
    beside = sorted(own.parent.glob("_*.py")) if own.name == "__init__.py" else []
    return [own, *beside, *sorted((ROOT / "benchmark").glob("*.py"))]


if __name__ == "__main__":
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}\n")
    PAGE.write_text(page(), encoding="utf-8")

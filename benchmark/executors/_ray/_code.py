"""The code that nodes run: the driver's own, with its plugins, as one package."""

import hashlib
import importlib
import shutil
from collections.abc import Iterable
from pathlib import Path

from pruneboard.benchmark import discovery, provenance
from pruneboard.benchmark.errors import PruneboardError

_PACKAGES = ("benchmark", "criteria", "models")
_MOST_BYTES = 64 * 2**20

# A regular package wins over every namespace package, so nothing that a node has installed can get between.
_INIT = '''"""The pruneboard of the machine that a run was started on."""

DIGEST = "{digest}"
'''


def stage_code(folder: Path) -> tuple[Path, str]:
    """Copy pruneboard and its plugins, as this process finds them, into a package `pruneboard` in a folder.

    Plugins of installed packages are left out, as other packages are: they have to be installed on the nodes.

    Weights are left out: they are sent as files, once per node and only those that jobs need.

    Returns:
        The package, and the sha256 of it, which is its `DIGEST` when it is imported.

    Raises:
        PruneboardError: it is larger than code can be.
    """
    top = folder / "pruneboard"
    for package in _PACKAGES:
        shutil.copytree(discovery.ROOT / package, top / package, ignore=_not_code)
    provenance.origin().write(top)
    for number, path in enumerate(discovery.named_files()):
        target = top / discovery.SENT_FOLDER / f"{number:03}"
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=_not_code)
        else:
            target.mkdir(parents=True)
            shutil.copy(path, target)
    files = sorted(path for path in top.rglob("*") if path.is_file())
    sizes = {path: path.stat().st_size for path in files}
    if (total := sum(sizes.values())) > _MOST_BYTES:
        largest = max(files, key=sizes.__getitem__)
        raise PruneboardError(
            f"the code that is sent to the nodes must be at most {_MOST_BYTES >> 20} MiB, got {total >> 20} MiB with "
            f"`{'/'.join(largest.parts[len(top.parts) :])}`; move large files away from the plugins."
        )
    joined = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).digest()
        joined.update(path.relative_to(top).as_posix().encode() + b"\0" + content)
    (top / "__init__.py").write_text(_INIT.format(digest=joined.hexdigest()), encoding="utf-8")
    return top, joined.hexdigest()


def _not_code(_folder: str, names: Iterable[str]) -> set[str]:
    return {name for name in names if name.startswith((".", "__pycache__")) or name.endswith((".pyc", ".safetensors"))}


def running_digest() -> str:
    """Return the digest of the sent code that this process imported; empty when it imported other code."""
    return str(getattr(importlib.import_module("pruneboard"), "DIGEST", ""))

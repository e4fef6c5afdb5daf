"""Writing a pruned network: its weights, a Python module that rebuilds it, and ONNX, all of them or none."""

import contextlib
import importlib.util
import json
import keyword
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, fx

from pruneboard.benchmark.errors import AssetError, ModelError
from pruneboard.benchmark.physical._records import Facts
from pruneboard.benchmark.physical._source import module_source
from pruneboard.benchmark.store import atomic_file

_SUFFIX = ".safetensors"

_TOLERANCE, _ONNX_TOLERANCE = 1e-5, 1e-4
"""Largest difference of a logit of what was written, relative to the largest logit; ONNX has kernels of its own."""

# What the module imports, and what torch and ONNX import in turn.
_TAKEN = sys.stdlib_module_names | {"__main__", "numpy", "onnx", "safetensors", "torch"}


@dataclass(frozen=True)
class Targets:
    """The files of a pruned network.

    Attributes:
        weights: the safetensors file, with everything known of the network in its metadata.
        module: the Python module beside it.
        onnx: the ONNX file, or None.
    """

    weights: Path
    module: Path
    onnx: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files, in the order in which they appear."""
        return (self.weights, self.module, *(() if self.onnx is None else (self.onnx,)))

    @property
    def checked(self) -> tuple[Path, ...]:
        """Those that are loaded again before they appear; ONNX only where onnxruntime is installed."""
        runs_onnx = importlib.util.find_spec("onnxruntime") is not None
        return tuple(path for path in self.paths if path != self.onnx or runs_onnx)

    def stamps(self) -> Mapping[Path, tuple[int, int]]:
        """Return what tells each file that exists from one that replaces it."""
        found = {path: path.stat() for path in self.paths if path.exists()}
        return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in found.items()}


def targets_of(out: Path, *, onnx: bool) -> Targets:
    """Return the files for `--out`, whose suffix is `.safetensors` whether it is named or not.

    Raises:
        AssetError: it has another suffix or no name, or the module could not be imported by its name.
        ModelError: ONNX is wanted, and what writes it is not installed.
    """
    if out.suffix not in ("", _SUFFIX) or out.name in ("", _SUFFIX) or out.is_dir():
        raise AssetError(
            f"`--out` must name a file that ends in `{_SUFFIX}` or has no suffix, got `{out}`; the module and the ONNX "
            "file are put beside it."
        )
    module = out.with_suffix(".py")
    if keyword.iskeyword(module.stem) or module.stem in _TAKEN:
        reason = "is a keyword of Python" if keyword.iskeyword(module.stem) else "would hide the module of that name"
        raise AssetError(
            f"`--out` must give a name that the module beside it can be imported by, got `{out}`: `{module.stem}` "
            f"{reason}; choose another name, such as `{module.stem}_pruned`."
        )
    missing = [name for name in ("onnx", "onnxscript") if onnx and importlib.util.find_spec(name) is None]
    if missing:
        raise ModelError(
            f"`--onnx` needs {' and '.join(missing)}; install them with `pip install pruneboard[onnx]`, or leave the "
            "option out."
        )
    return Targets(out.with_suffix(_SUFFIX), module, out.with_suffix(".onnx") if onnx else None)


def check_targets(targets: Targets, *, overwrite: bool) -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        AssetError: a file exists.
        StoreError: the folder cannot be written.
    """
    for path in targets.paths:
        if path.is_dir() or (path.exists() and not overwrite):
            raise AssetError(
                f"`--out` must lead to new files, but `{path}` exists; choose another name, or replace it with "
                "`--overwrite`."
            )
    probe = targets.weights.with_name(f".{targets.weights.name}.probe")
    with atomic_file(probe):
        pass
    probe.unlink()


def write(network: fx.GraphModule, facts: Facts, targets: Targets, images: Tensor) -> None:
    """Write a network's files; they appear when all of them are whole and load, in the order of `Targets.paths`.

    Args:
        network: the pruned network, on the CPU.
        facts: what is known of it.
        targets: where to.
        images: some on which a fresh interpreter must get its logits, (n_images, channels, height, width).

    Raises:
        ModelError: the network cannot be written down, or what was written does not load, or computes something else.
        StoreError: a file cannot be written.
    """
    source = module_source(network, facts, targets.weights.name)
    state = {name: tensor.detach().contiguous().clone() for name, tensor in network.state_dict().items()}
    with contextlib.ExitStack() as stack:
        # The stack closes what was entered last first, and a module without its weights is of no use.
        temporary = {path: stack.enter_context(atomic_file(path)) for path in reversed(targets.paths)}
        weights, module, *onnx = [temporary[path] for path in targets.paths]
        weights.write_bytes(safetensors.torch.save(state, metadata=_metadata(facts)))
        module.write_text(source, encoding="utf-8")
        for path in onnx:
            _export(network, facts, path)
        _load_again(network, targets, temporary, images)


def _load_again(network: fx.GraphModule, targets: Targets, written: Mapping[Path, Path], images: Tensor) -> None:
    """Hold written files to the network, in a fresh interpreter that has neither pruneboard nor timm.

    Args:
        network: what they hold.
        targets: their names.
        written: each of them to where it lies now.
        images: what the logits are compared on.

    Raises:
        ModelError: they do not load, or compute something else.
    """
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for target, path in written.items():
            (Path(folder) / target.name).symlink_to(path.resolve())
        given = {"images": images.cpu().contiguous(), "logits": network(images.cpu()).contiguous()}
        safetensors.torch.save_file(given, Path(folder) / ".given")
        arguments = [folder, *(path.name for path in targets.checked if path != targets.weights)]
        done = subprocess.run(
            [sys.executable, "-P", "-c", _ALONE, *arguments], capture_output=True, text=True, check=False
        )
    if done.returncode or done.stdout != _SAME:
        reason = (done.stderr or done.stdout).strip().rpartition("\n")[2][:300] or f"it ended with {done.returncode}"
        raise ModelError(
            f"a network that is written must load in a fresh interpreter and give its logits, but that of "
            f"`{targets.module}` does not ({reason}); nothing was written, use this network with masks only."
        )


_SAME = "the same logits\n"

_ALONE = f"""
import importlib.util, pathlib, sys
for name in ("pruneboard", "timm", "torch_pruning", "torchvision", "zennit"):
    sys.modules[name] = None
import torch
from safetensors.torch import load_file
folder, module, *onnx = sys.argv[1:]
folder = pathlib.Path(folder)
given = load_file(folder / ".given")
images, logits = given["images"], given["logits"]
spec = importlib.util.spec_from_file_location(pathlib.Path(module).stem, folder / module)
written = importlib.util.module_from_spec(spec)
spec.loader.exec_module(written)
network = written.load()
runs = [network]
for name in onnx:
    import onnxruntime
    session = onnxruntime.InferenceSession(folder / name)
    runs.append(lambda x: torch.from_numpy(session.run(None, {{"images": x.numpy()}})[0]))
with torch.no_grad():
    for run, tolerance in zip(runs, ({_TOLERANCE}, {_ONNX_TOLERANCE})):
        for part in (slice(None), slice(1)):
            got, expected = run(images[part]), logits[part]
            if got.shape != expected.shape:
                sys.exit(f"its logits are {{tuple(got.shape)}} instead of {{tuple(expected.shape)}}")
            off = float((got - expected).abs().max() / logits.abs().max().clamp(min=1e-2))
            if not off <= tolerance:
                sys.exit(f"its logits differ by {{off:.2g}} of the largest")
sys.stdout.write({_SAME!r})
"""


def _metadata(facts: Facts) -> dict[str, str]:
    # One entry only: safetensors writes several in a random order, and the file's sha256 would change with it.
    return {"pruneboard": json.dumps(facts.document(), sort_keys=True)}


def read_facts(weights: Path) -> dict[str, object]:
    """Return what is known of a network from the metadata of its weights file.

    Raises:
        AssetError: it is no file that `write` wrote.
    """
    try:
        with safetensors.safe_open(weights, "pt") as file:
            document = json.loads((file.metadata() or {})["pruneboard"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError) as error:
        raise AssetError(f"`{weights}` must be the weights file of a pruned network, but {error}.") from error
    return dict(document)


def _export(network: fx.GraphModule, facts: Facts, path: Path) -> None:
    """Write the network as ONNX, for any number of images."""
    # The exporter traces with two images, as it takes a dimension of one for a fixed one.
    example = torch.zeros(2, *facts.input_size)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (example,),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("n_images")},),
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ModelError("torch.onnx.export must return a program, but it returned nothing; leave out `--onnx`.")
    model = program.model
    # The exporter notes for each operation where in whose files it came from.
    parts: list[Any] = [*model.graph.all_nodes(), *model.graph.inputs, *model.graph.outputs]
    for part in parts:
        part.metadata_props.clear()
        part.doc_string = None
    model.metadata_props.update(_metadata(facts))
    program.save(path, external_data=False)

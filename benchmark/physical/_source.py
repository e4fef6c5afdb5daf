"""A flat network as one readable Python module that needs only torch and safetensors."""

import ast
import builtins
import inspect
import json
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn

from pruneboard.benchmark.errors import ModelError
from pruneboard.benchmark.physical import _modules
from pruneboard.benchmark.physical._records import Facts
from pruneboard.benchmark.physical._trace import LEAVES

_IMPORTS = """\
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
"""

_CONTAINERS = '''\
    def _add(self, name: str, part: nn.Module | nn.Parameter) -> None:
        """Put a module or parameter at its dotted name, in containers that have the names before the dots."""
        *containers, own = name.split(".")
        place: nn.Module = self
        for container in containers:
            if container not in place._modules:
                place.add_module(container, nn.Module())
            place = place._modules[container]
        if isinstance(part, nn.Parameter):
            place.register_parameter(own, part)
        else:
            place.add_module(own, part)
'''

_BUFFERS = '''\

    def _add_buffer(self, name: str, values: Tensor) -> None:
        """Put a tensor that is not trained at its dotted name."""
        container, _, own = name.rpartition(".")
        self.get_submodule(container).register_buffer(own, values)
'''

_LOAD = '''\
def normalise(images: Tensor) -> Tensor:
    """Turn images (n, *INPUT_SIZE), with pixel values in [0, 1], into what the network takes."""
    mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def load(path: str | Path = Path(__file__).with_name({file})) -> Network:
    """Return the network with its weights, in eval mode on the CPU."""
    network = Network()
    network.load_state_dict(load_file(path))
    return network.eval()
'''


def module_source(flat: fx.GraphModule, facts: Facts, weights_file: str) -> str:
    """Return the source of a Python module with the class `Network`, `normalise` and `load`.

    Args:
        flat: the network, whose modules are all of kinds that can be written down.
        facts: what the module says of it.
        weights_file: name of the safetensors file beside the module.

    Raises:
        ModelError: the network calls a function that is not torch's or Python's.
    """
    own = [kind for kind in (_modules.Gather, _modules.Scatter, _modules.Constant) if _has(flat, kind)]
    constants = {
        "INPUT_SIZE": facts.input_size,
        "MEAN": facts.mean,
        "STD": facts.std,
        "N_CLASSES": facts.n_classes,
    }
    lines = "".join(f"{name} = {value!r}\n" for name, value in constants.items())
    parts = [
        f'"""{_head(facts, weights_file)}"""\n\n{_extra_imports(flat)}{_IMPORTS}\n{lines}',
        *(inspect.getsource(kind) for kind in own),
        _network(flat),
        _LOAD.format(file=json.dumps(weights_file)),
    ]
    return "\n\n".join(parts)


def _has(flat: fx.GraphModule, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in flat.modules())


def _head(facts: Facts, weights_file: str) -> str:
    lines = [
        f"{facts.model} with {facts.rate:.4g} of its {facts.granularity} removed by the criterion {facts.criterion}.",
        "",
        f"Accuracy {facts.top1_before:.4f} -> {facts.top1:.4f} on {facts.n_images} images of {facts.dataset}; "
        f"parameters {facts.params_before:,} -> {facts.params:,};",
        f"multiply-accumulates {facts.macs_before:,} -> {facts.macs:,} for one image.",
        f"Weights: {weights_file}, made of those of {facts.model} ({facts.source}), licence {facts.licence}.",
        f"Written by pruneboard {facts.pruneboard}; needs torch and safetensors only.",
    ]
    return _escape("\n".join(lines)) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"""', "'''")


def _extra_imports(flat: fx.GraphModule) -> str:
    """Return the imports of what the graph's code names besides torch.

    Raises:
        ModelError: it names something of another package.
    """
    values = flat.graph.python_code("self").globals
    used = {node.id for node in ast.walk(ast.parse(_forward(flat))) if isinstance(node, ast.Name)}
    found = []
    for name in sorted((used & values.keys()) - {"torch", *vars(builtins)}):
        value = values[name]
        own = getattr(value, "__name__", name)
        # Numbers such as `inf` have no module, and torch's graphs call those of `math` by their names.
        module = "math" if isinstance(value, float) else str(getattr(value, "__module__", None))
        if module.split(".")[0] not in ("torch", "math", "operator", "_operator", "typing"):
            raise ModelError(
                f"the code of a network must call torch only to be written down, but it calls `{name}` of `{module}`; "
                "use this network with masks only."
            )
        found.append(f"from {module} import {own}{'' if own == name else f' as {name}'}\n")
    return "".join(found)


def _forward(flat: fx.GraphModule) -> str:
    """Return the code of `forward`, without the calls of torch's tracer before it."""
    code = flat.graph.python_code("self").src
    return code[code.index("def forward(") :].strip()


def _network(flat: fx.GraphModule) -> str:
    body = _forward(flat)
    lines = [line.split("#")[0].rstrip() if "annotation" in line else line.rstrip() for line in body.splitlines()]
    text = "\n".join(f"    {line}" if line else "" for line in lines)
    parts = [
        "class Network(nn.Module):\n",
        '    """The pruned network; the names of its parts are those of the network it was made of."""\n\n',
        "    def __init__(self) -> None:\n        super().__init__()\n",
        *(f"        {line}\n" for line in _constructors(flat)),
        "\n",
        _CONTAINERS,
        _BUFFERS if _buffers(flat) else "",
        "\n",
        f"{text}\n",
    ]
    return "".join(parts)


def _constructors(flat: fx.GraphModule) -> Iterator[str]:
    """Yield a statement for each module, parameter and loose buffer."""
    buffers = _buffers(flat)
    done: set[str] = set()
    for node in flat.graph.nodes:
        name = str(node.target)
        if node.op not in ("call_module", "get_attr") or name in done:
            continue
        done.add(name)
        if node.op == "call_module":
            yield f"self._add({json.dumps(name)}, {_constructor(flat.get_submodule(name))})"
        elif name in buffers:
            yield f"self._add_buffer({json.dumps(name)}, {_empty(buffers[name])})"
        else:
            yield f"self._add({json.dumps(name)}, nn.Parameter({_empty(flat.get_parameter(name))}))"


def _buffers(flat: fx.GraphModule) -> dict[str, Tensor]:
    """Return the tensors that the graph reads by name and that are not trained."""
    named = dict(flat.named_buffers())
    return {str(n.target): named[str(n.target)] for n in flat.graph.nodes if n.op == "get_attr" and n.target in named}


def _empty(tensor: Tensor) -> str:
    return f"torch.empty({tuple(tensor.shape)}, dtype={tensor.dtype})"


def _constructor(module: nn.Module) -> str:
    kind = type(module)
    prefix = "" if kind.__module__ == _modules.__name__ else "nn."
    return f"{prefix}{kind.__name__}({', '.join(_arguments(module))})"


def _arguments(module: nn.Module) -> Iterator[str]:
    """Yield the arguments that differ from the defaults, the leading ones without their names."""
    parameters = inspect.signature(type(module)).parameters
    written = repr if type(module).__module__ == _modules.__name__ else _literal
    for name in LEAVES[type(module)]:
        value: Any = len(module.get_buffer("index")) if name == "n_kept" else getattr(module, name)
        if name == "bias":
            value = value is not None
        default = parameters[name].default
        if default is inspect.Parameter.empty:
            yield written(value)
        elif value != default and not _equals_pair(value, default):
            yield f"{name}={written(value)}"


def _literal(value: object) -> str:
    """Write a value, a pair of equal numbers as one."""
    if isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _equals_pair(value: object, default: object) -> bool:
    return isinstance(value, tuple) and set(value) == {default}

"""Criteria that attack whoever runs them, and a run of each beside criteria that must not notice.

Run `python tests/support/hostile_criteria.py [PART_OF_A_NAME]`: each attack is made when the plugin is imported, and
when it scores, and then two of the project's own criteria are measured again in the same process. An attack has escaped
when their rows, or the state of the process, changed, or when it ended or hung the process.
"""

import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch

from pruneboard.benchmark import foreign
from pruneboard.benchmark.discovery import FILES_VARIABLE
from pruneboard.benchmark.errors import PruneboardError
from pruneboard.benchmark.process import ProcessState
from pruneboard.benchmark.runner import Workbench, run_job
from pruneboard.benchmark.schema import Job, Suite
from pruneboard.benchmark.suites import load_suite

PLUGIN = '''
import atexit, builtins, ctypes, dataclasses, gc, glob, json, os, resource, signal
import sys, tempfile, threading, time, weakref
import numpy as np, torch
from pruneboard.benchmark.api import Criterion, Unsupported, unit_weights


def folder():
    return max(glob.glob(tempfile.gettempdir() + "/pruneboard-*"), key=os.path.getmtime)


def attack(context=None, scores=None):
{attack}


{at_import}


@dataclasses.dataclass(frozen=True)
class Hostile(Criterion):
    """It attacks."""

    name, version, family = "hostile", 1, "weights"
    source, needs = "https://example.org/x", "nothing"

    def score(self, context):
        scores = {{layer.name: unit_weights(context.model, layer).norm(dim=1) for layer in context.layers}}
        {at_score}
'''

ATTACKS: Mapping[str, Mapping[str, str]] = {
    "library": {
        "argsort": "torch.argsort = lambda x, **k: torch.arange(len(x))",
        "sort": "torch.Tensor.sort = lambda s, *a, **k: (s, torch.arange(len(s)))",
        "tensor_equal": "torch.equal = lambda *a: True",
        "conv_forward": "torch.nn.Conv2d.forward = lambda self, x: x * 0",
        "norm_forward": "torch.nn.BatchNorm2d.forward = lambda self, x: x",
        "relu": "torch.nn.functional.relu = lambda x, *a: x",
        "module_call": "torch.nn.Module.__call__ = lambda self, x: x",
        "tensor_sum": "torch.Tensor.sum = lambda self, *a, **k: self.new_zeros(())",
        "numpy_sort": "np.sort = lambda x, *a, **k: x",
        "default_dtype": "torch.set_default_dtype(torch.float64)",
        "default_device": "torch.set_default_device('meta')",
        "mkldnn": "torch._C._set_mkldnn_enabled(False)",
        "threads": "torch.set_num_threads(7)",
        "seed": "torch.manual_seed(0); np.random.seed(0)",
        "no_grad": "torch.set_grad_enabled(False)",
        "inference_mode": "torch.autograd.grad_mode._enter_inference_mode(True)",
        "deterministic": "torch.use_deterministic_algorithms(True)",
        "precision": "torch.set_float32_matmul_precision('medium')",
        "global_hook": "torch.nn.modules.module.register_module_forward_hook(lambda m, i, o: o * 0)",
        "function_mode": "torch.overrides.TorchFunctionMode().__enter__()",
        "flush_denormal": "torch.set_flush_denormal(True)",
    },
    "engine": {
        "constant": "import pruneboard.benchmark.evaluate as e; e.TOLERANCE = 1e9",
        "curve": "import pruneboard.benchmark.evaluate as e; e.accuracy_curve = lambda *a: []",
        "rank": "import pruneboard.benchmark.ranking as r; r.rank.__code__ = (lambda *a: None).__code__",
        "save": "from pruneboard.benchmark.store import RunStore; RunStore.save = lambda *a: None",
        "row": "from pruneboard.benchmark.schema import Row; Row.__init__ = lambda *a, **k: None",
        "registry": "from pruneboard.benchmark.registry import Registry; Registry.get = lambda *a: None",
        "check_scores": "import pruneboard.benchmark.checks as c; c.check_scores = lambda *a: None",
        "context": "import pruneboard.benchmark.api as a; a.Context.reference = None",
        "seen": "[o.seen.clear() for o in gc.get_objects() if type(o).__name__ == 'Evaluation']",
        "caches": "[f.cache_clear() for f in gc.get_objects() if hasattr(f, 'cache_clear') and callable(f)]",
        "weights": "[p.data.zero_() for m in [context and context.model] if m for p in m.parameters()]",
        "late_hook": "threading.Timer(0.1, lambda: context.model.register_forward_hook(lambda m, i, o: o * 0)).start()",
        "module_gone": "sys.modules.clear()",
    },
    "interpreter": {
        "len": "builtins.len = lambda x: 0",
        "json": "json.dumps = lambda *a, **k: 'x'",
        "open": "builtins.open = lambda *a, **k: None",
        "recursion": "sys.setrecursionlimit(60)",
        "trace": "sys.settrace(lambda *a: 1 / 0)",
        "excepthook": "sys.excepthook = lambda *a: os._exit(0)",
        "atexit": "atexit.register(os._exit, 0)",
        "finaliser": "weakref.finalize(Hostile if 'Hostile' in globals() else attack, os._exit, 0)",
        "collector": "gc.callbacks.append(lambda *a: os._exit(0)); gc.collect()",
        "thread": "threading.Thread(target=lambda: time.sleep(100)).start()",
        "late_exit": "threading.Timer(0.05, os._exit, (0,)).start()",
        "signal": "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "alarm": "signal.signal(signal.SIGALRM, lambda *a: os._exit(0)); signal.setitimer(signal.ITIMER_REAL, 0.05)",
        "path": "sys.path.insert(0, '/nowhere')",
    },
    "process": {
        "chdir_gone": "d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
        "environment": "os.environ.clear()",
        "close_all": "os.closerange(0, 400)",
        "close_loop": "os.closerange(3, 400)\nwhile True: pass",
        "limits": "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
        "no_memory": "resource.setrlimit(resource.RLIMIT_AS, (1, 1))",
        "exit_0": "os._exit(0)",
        "exit_1": "os._exit(1)",
        "sys_exit": "sys.exit(0)",
        "kill_self": "os.kill(os.getpid(), signal.SIGKILL)",
        "terminate_self": "os.kill(os.getpid(), signal.SIGTERM)",
        "kill_group": "os.killpg(0, signal.SIGKILL)",
        "stop_self": "os.kill(os.getpid(), signal.SIGSTOP)",
        "segfault": "ctypes.string_at(0)",
        "abort": "os.abort()",
        "kill_parent": "os.kill(os.getppid(), signal.SIGKILL)",
        "stop_parent": "os.kill(os.getppid(), signal.SIGSTOP)",
        "sleep": "time.sleep(1000)",
        "loop": "while True: pass",
        "daemon": "os.fork() or (os.setsid(), os.fork() or time.sleep(1000))",
        "fork_returns": "os.fork()",
        "floods": "[os.write(1, b'f' * 10**6) for _ in range(5)]",
        "answers": "[os.write(n, b'exit code 0\\n') for n in range(12) if os.path.exists(f'/proc/self/fd/{n}')]",
        "half_message": (
            "for n in range(3, 12):\n    try: os.write(n, bytes(4))\n    except OSError: pass\ntime.sleep(1000)"
        ),
    },
    "exceptions": {
        "own_error": "from pruneboard.benchmark.errors import CheckpointError; raise CheckpointError('x')",
        "store_error": "from pruneboard.benchmark.errors import StoreError; raise StoreError('x')",
        "unsupported": "raise Unsupported('\\x1b[31m' + 'x' * 10**6)",
        "interrupt": "raise KeyboardInterrupt",
        "generator_exit": "raise GeneratorExit",
        "base": "raise BaseException('x')",
        "exit_text": "raise type('B', (Exception,), dict.fromkeys(['__str__', '__repr__'], lambda s: sys.exit(0)))()",
        "kill_text": "raise type('B', (Exception,), {'__str__': lambda s: os._exit(0)})()",
        "long_text": "raise ValueError('x' * 10**7)",
        "surrogates": "raise ValueError('\\ud800\\r\\n')",
        "deep": "f = lambda: f(); f()",
        "memory": "raise MemoryError",
        "group": "raise BaseExceptionGroup('x', [SystemExit(0)])",
    },
    "scores": {
        "lazy": "return type('D', (dict,), {'__getitem__': lambda s, k: torch.zeros(1)})(scores)",
        "subclass": "return {k: v.as_subclass(type('T', (torch.Tensor,), {})) for k, v in scores.items()}",
        "nan": "return {k: v * float('nan') for k, v in scores.items()}",
        "double": "return {k: v.double() for k, v in scores.items()}",
        "short": "return {k: v[:-1] for k, v in scores.items()}",
        "none": "return None",
        "extra": "return {**scores, 'x': torch.zeros(3)}",
        "meta": "return {k: v.to('meta') for k, v in scores.items()}",
        "sparse": "return {k: v.to_sparse() for k, v in scores.items()}",
        "gradient": "return {k: v.requires_grad_() for k, v in scores.items()}",
        "generator": "return iter(scores.items())",
        "huge": "return {k: torch.zeros(10**8) for k in scores}",
    },
    "reply": {
        "nothing": "import shutil; shutil.rmtree(folder())",
        "text": "open(folder() + '/reply.json', 'w').write('x'); os._exit(0)",
        "nested": "open(folder() + '/reply.json', 'w').write('[' * 10**5); os._exit(0)",
        "large": "open(folder() + '/reply.json', 'w').write('x' * 10**8); os._exit(0)",
        "list": "open(folder() + '/reply.json', 'w').write('[]'); os._exit(0)",
        "types": "open(folder() + '/reply.json', 'w').write(json.dumps({'status': [], 'reason': 3})); os._exit(0)",
        "link": "os.symlink('/etc/passwd', folder() + '/reply.json'); os._exit(0)",
        "endless_link": "os.symlink('/dev/zero', folder() + '/reply.json'); os._exit(0)",
        "pipe": "os.mkfifo(folder() + '/reply.json'); os._exit(0)",
        "folder": "os.mkdir(folder() + '/reply.json'); os._exit(0)",
        "tensors_pipe": (
            "open(folder() + '/reply.json', 'w').write(json.dumps({'status': 'ok'}));"
            " os.mkfifo(folder() + '/reply.safetensors'); os._exit(0)"
        ),
        "tensors_bad": (
            "open(folder() + '/reply.json', 'w').write(json.dumps({'status': 'ok', 'content': {'seconds': -1}}));"
            " open(folder() + '/reply.safetensors', 'wb').write(b'\\xff' * 100); os._exit(0)"
        ),
    },
}
"""Class of attack to its attacks, each by name."""

_LIMIT_SECONDS = 6.0


@dataclass(frozen=True)
class Result:
    """What came of an attack.

    Attributes:
        kind: class of the attack.
        name: its name, with the place where it was made.
        outcome: what became of the hostile criterion itself: the status and reason of its row, or the refusal.
        escaped: what it changed outside its process; empty when nothing.
    """

    kind: str
    name: str
    outcome: str
    escaped: str


def attacks(part: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield class, name and source of every attack whose name holds a text."""
    for kind, named in ATTACKS.items():
        for name, code in named.items():
            places = ("score",) if kind == "scores" or "context" in code else ("import", "score")
            for place in places:
                full = f"{kind}/{name}/{place}"
                if part in full:
                    yield kind, full, _source(code, place)


def _source(code: str, place: str) -> str:
    body = "\n".join(code.split("\n")) if "\n" in code else code.replace("; ", "\n")
    return PLUGIN.format(
        attack=textwrap.indent(body, "    "),
        at_import="attack()" if place == "import" else "",
        at_score="found = attack(context, scores)\n        return scores if found is None else found"
        if place == "score"
        else "return scores",
    )


class Victim:
    """A process that measures two of the project's own criteria beside hostile ones.

    Args:
        suite: a suite of the criteria `magnitude` and `taylor` on one small network.
    """

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._before = self._rows()

    def _rows(self) -> list[tuple[object, ...]]:
        bench = Workbench(torch.device("cpu"))
        rows = [row for name in ("magnitude", "taylor") for row in run_job(self._job(name), bench)]
        return [(row.criterion, row.rate, row.top1, row.cross_entropy, row.status, row.key) for row in rows]

    def _job(self, criterion: str) -> Job:
        (model,) = self._suite.models
        return Job(suite=self._suite, model=model.name, granularity="filters", criterion=criterion, seed=0)

    def suffer(self, kind: str, name: str, path: Path) -> Result:
        """Run a hostile criterion, and see whether anything else changed."""
        state, bench = ProcessState(), Workbench(torch.device("cpu"))
        ask = foreign._criterion.ask

        def limited(*given: object, **named: object) -> foreign.Reply:
            return ask(*given, **{**named, "seconds": _LIMIT_SECONDS})

        with (
            mock.patch.dict(os.environ, {FILES_VARIABLE: str(path)}),
            mock.patch.object(foreign._criterion, "ask", limited),
            mock.patch.object(foreign._description, "IMPORT_SECONDS", _LIMIT_SECONDS),
        ):
            try:
                row = run_job(self._job("hostile"), bench)[0]
                outcome = f"{row.status} {row.reason}"
            except PruneboardError as error:
                outcome = f"refused: {error}"
        # Loading a network draws its first weights.
        changes = [change for change in state.changes() if change != "the random state of torch"]
        if self._rows() != self._before:
            changes.append("rows of others")
        return Result(kind, name, outcome[:160], ", ".join(changes))


def main() -> None:
    """Make all attacks, and print what became of each and the sums by class."""
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suite_file = folder / "small.toml"
        suite_file.write_text(SUITE)
        torch.set_num_threads(1)
        victim = Victim(load_suite(suite_file))
        results = []
        for number, (kind, full, source) in enumerate(attacks(part)):
            path = folder / f"hostile_{number}.py"
            path.write_text(source)
            started = time.monotonic()
            results.append(victim.suffer(kind, full, path))
            print(
                f"{full}: {results[-1].escaped or 'contained'}; {results[-1].outcome} "
                f"({time.monotonic() - started:.1f} s)",
                flush=True,
            )
    for kind in ATTACKS:
        own = [result for result in results if result.kind == kind]
        print(f"{kind}: {len(own)} attacks, {sum(bool(result.escaped) for result in own)} escaped")


SUITE = """
format = 1
name = "small"
version = 1
title = "Small"
description = "For tests."
[data]
datasets = ["digits"]
reference_split = "train"
evaluation_split = "test"
[protocol]
name = "one_shot"
scope = "global"
[grid]
rates = [0.0, 0.3]
shots = [1]
seeds = [0]
criteria = ["magnitude", "taylor"]
[models]
digits_vgg = ["filters"]
"""

if __name__ == "__main__":
    main()

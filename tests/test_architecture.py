"""The rules of the code that a linter does not know: who imports whom, randomness, what a file must not contain."""

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("benchmark", "criteria", "models")

# Each part of benchmark/ imports only from lower levels; a folder is one part, and free inside.
LEVELS: dict[str, int] = {
    "errors": 0,
    "schema": 1,
    "assets": 1,
    "registry": 1,
    "discovery": 1,
    "stats": 1,
    "catalogue": 1,
    "suites": 2,
    "store": 2,
    "claims": 2,
    "networks": 2,
    "units": 2,
    "data": 2,
    "provenance": 2,
    "speeds": 3,
    "studies": 3,
    "cards": 3,
    "api": 3,
    "ranking": 3,
    "compact": 3,
    "counts": 3,
    "render": 4,
    "validation": 5,
    "process": 1,
    "failures": 1,
    "foreign": 5,
    "scoring_process": 8,
    "contract": 8,
    "skeletons": 2,
    "evaluate": 4,
    "checks": 4,
    "plugins": 6,
    "adapters": 4,
    "pruned": 4,
    "scoring": 6,
    "workers": 5,
    "training": 7,
    "protocols": 8,
    "runner": 9,
    "executors": 10,
    "physical": 10,
    "tune": 10,
    "cli": 11,
}

# What `--help`, `table` and `site build` load has to start in well under a second.
WITHOUT_TORCH = (
    "errors",
    "schema",
    "registry",
    "discovery",
    "suites",
    "store",
    "stats",
    "claims",
    "speeds",
    "studies",
    "cards",
    "render",
    "validation",
    "cli",
)

MAX_PARAMETERS = 7

# They draw networks, or call a library that draws from the global generator.
MAY_FORK = {"benchmark/adapters/_torch_pruning.py", "benchmark/contract/_networks.py"}

# Functions that draw from torch's global generator unless they are given one.
DRAWS = {"bernoulli", "multinomial", "normal", "poisson", "rand", "randint", "randn", "randperm"}
NUMPY_GENERATORS = {"default_rng", "Generator", "SeedSequence", "PCG64"}


def modules(*packages: str) -> list[Path]:
    return sorted(chain.from_iterable((ROOT / package).rglob("*.py") for package in packages or PACKAGES))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def breaches(find: Callable[[Path], Iterable[str]], *packages: str) -> list[str]:
    """Return what `find` finds wrong in any module, with the file in front."""
    return [f"{relative(path)}: {what}" for path in modules(*packages) for what in find(path)]


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` for such an expression, else the empty string."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (prefix := dotted(node.value)):
        return f"{prefix}.{node.attr}"
    return ""


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield every module or name imported from pruneboard, wherever in the file, as a dotted name.

    A relative import is yielded with its dots, which no rule allows.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in {"pruneboard", ""})


def part_of(path: Path) -> str:
    """Return the name in `LEVELS` of a file of benchmark/."""
    return path.relative_to(ROOT / "benchmark").with_suffix("").parts[0]


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, bool]]:
    """Yield every call, and whether it stands in a block whose draws leave the global generators as they were."""

    def visit(node: ast.AST, forked: bool) -> Iterator[tuple[ast.Call, bool]]:
        if isinstance(node, ast.Call):
            yield node, forked
        if isinstance(node, ast.With):
            names = [dotted(item.context_expr.func) for item in node.items if isinstance(item.context_expr, ast.Call)]
            inside = forked or "torch.random.fork_rng" in names
            for item in node.items:
                yield from visit(item, forked)
            for statement in node.body:
                yield from visit(statement, inside)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, forked)

    return visit(tree, False)


def global_randomness(tree: ast.Module, may_fork: bool) -> list[str]:
    """Return the calls of a module that seed a global generator or draw from one."""
    found = []
    for call, forked in calls(tree):
        name = dotted(call.func)
        module, _, function = name.rpartition(".")
        is_torch = module == "torch" and (
            function in {"manual_seed", "seed", "set_rng_state"}
            or (function in DRAWS and not any(keyword.arg == "generator" for keyword in call.keywords))
        )
        is_torch = is_torch or (module in {"torch.cuda", "torch.random"} and "seed" in function)
        is_numpy = module in {"np.random", "numpy.random"} and function not in NUMPY_GENERATORS
        is_python = module == "random" and function != "Random"
        if is_numpy or is_python or (is_torch and not (forked and may_fork)):
            found.append(f"line {call.lineno}: {name}")
    return found


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def run_python(code: str, folder: Path) -> str:
    """Run code in a fresh process and return what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_part_of_the_engine_has_a_level() -> None:
    assert {part_of(path) for path in modules("benchmark")} == LEVELS.keys()


def test_the_engine_imports_from_lower_levels_only() -> None:
    def wrong(path: Path) -> Iterator[str]:
        own = part_of(path)
        for name in imports(parse(path)):
            if not name.startswith("pruneboard.benchmark."):
                yield f"imports {name}, but the engine reaches plugins by their names only"
                continue
            part, _, inner = name.removeprefix("pruneboard.benchmark.").partition(".")
            if part == own:
                continue
            if LEVELS[part] >= LEVELS[own]:
                yield f"imports {part} (level {LEVELS[part]}), but is itself on level {LEVELS[own]}"
            if inner.startswith("_"):
                yield f"imports {name}, which is private to {part}"

    assert not breaches(wrong, "benchmark")


def test_plugins_import_the_api_and_their_own_private_modules_only() -> None:
    def wrong(path: Path) -> Iterator[str]:
        beside = ".".join(("pruneboard", *path.relative_to(ROOT).parent.parts))
        allowed = ("pruneboard.benchmark.api.", "pruneboard.benchmark.adapters.", f"{beside}._")
        return (name for name in imports(parse(path)) if not name.startswith(allowed))

    assert not breaches(wrong, "criteria", "models")


def test_plugins_take_no_open_keyword_arguments() -> None:
    def wrong(path: Path) -> Iterator[str]:
        return (function.name for function in functions(parse(path)) if function.args.kwarg)

    assert not breaches(wrong, "criteria", "models"), "a misspelt option has to be an error"


def test_plugin_files_do_not_shadow_the_standard_library() -> None:
    assert not {path.stem for path in modules("criteria", "models")} & sys.stdlib_module_names


def test_the_commands_that_read_tables_start_without_torch(tmp_path: Path) -> None:
    loaders = run_python(
        f"""
        import importlib, sys
        for name in {WITHOUT_TORCH}:
            importlib.import_module(f"pruneboard.benchmark.{{name}}")
            if "torch" in sys.modules:
                print(name)
                break
        """,
        tmp_path,
    )
    assert not loaders, f"pruneboard.benchmark.{loaders} imports torch"


def test_modules_have_one_name_each(tmp_path: Path) -> None:
    names = [".".join(("pruneboard", *path.relative_to(ROOT).with_suffix("").parts)) for path in modules()]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith(".__main__")]
    top = run_python(
        f"""
        import importlib, sys
        for name in {names}:
            importlib.import_module(name)
        print(*sorted({set(PACKAGES)} & set(sys.modules)))
        """,
        tmp_path,
    )
    assert not top, f"imported as top-level modules: {top}"
    assert not set(PACKAGES) & set(sys.modules), "the tests imported a package of pruneboard as a top-level module"


def test_site_is_data() -> None:
    found = [relative(path) for path in (ROOT / "site").rglob("*.py")]
    assert not found, "an importable `site` would shadow the standard library's"


def test_randomness_comes_from_a_generator_that_is_passed_in() -> None:
    def wrong(path: Path) -> list[str]:
        may_fork = relative(path) in MAY_FORK or relative(path).startswith(("benchmark/training/", "models/"))
        return global_randomness(parse(path), may_fork)

    assert not breaches(wrong)


@pytest.mark.parametrize(
    ("code", "n_found"),
    [
        ("torch.manual_seed(0)", 1),
        ("torch.cuda.manual_seed_all(0)", 1),
        ("torch.randperm(3)", 1),
        ("torch.randperm(3, generator=generator)", 0),
        ("torch.Generator().manual_seed(0)", 0),
        ("np.random.seed(0)", 1),
        ("np.random.default_rng(0)", 0),
        ("random.shuffle(x)", 1),
        ("with torch.random.fork_rng([]):\n    torch.manual_seed(0)", 0),
        ("with torch.random.fork_rng([]):\n    pass\ntorch.manual_seed(0)", 1),
        ("with torch.no_grad():\n    torch.manual_seed(0)", 1),
    ],
)
def test_global_randomness_is_recognised(code: str, n_found: int) -> None:
    assert len(global_randomness(ast.parse(code), may_fork=True)) == n_found


def test_a_fork_counts_only_where_networks_are_trained_or_built() -> None:
    tree = ast.parse("with torch.random.fork_rng([]):\n    torch.manual_seed(0)")
    assert global_randomness(tree, may_fork=False) == ["line 2: torch.manual_seed"]


def test_modules_say_what_they_are_for() -> None:
    assert not [relative(path) for path in modules() if not ast.get_docstring(parse(path))]


def test_functions_have_few_parameters() -> None:
    def wrong(path: Path) -> Iterator[str]:
        for function in functions(parse(path)):
            # The parameters of a command are its options, which it packs into a dataclass itself.
            decorators = [d.func for d in function.decorator_list if isinstance(d, ast.Call)]
            if any(dotted(decorator).endswith(".command") for decorator in decorators):
                continue
            given = function.args
            names = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
            if len([name for name in names if name not in {"self", "cls"}]) > MAX_PARAMETERS:
                yield function.name

    assert not breaches(wrong), f"more than {MAX_PARAMETERS} parameters belong in a dataclass"


def test_assert_is_for_tests() -> None:
    def wrong(path: Path) -> Iterator[str]:
        return (f"line {node.lineno}" for node in ast.walk(parse(path)) if isinstance(node, ast.Assert))

    assert not breaches(wrong)


def test_only_what_runs_plugins_catches_everything() -> None:
    def wrong(path: Path) -> Iterator[str]:
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ExceptHandler):
                kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
                if any(kind is None or dotted(kind) in {"Exception", "BaseException"} for kind in kinds):
                    yield f"line {node.lineno}"

    # They run foreign code: some import it, call it or cut it, one traces it and has another way where that fails.
    allowed = (
        "benchmark/runner.py:",
        "benchmark/discovery.py:",
        "benchmark/failures.py:",
        "benchmark/foreign/",
        "benchmark/scoring_process.py:",
        "benchmark/workers/_channel.py:",
        "benchmark/contract/",
        "benchmark/compact/",
        "benchmark/evaluate.py:",
        "benchmark/networks.py:",
        "benchmark/physical/_build.py:",
    )
    found = [breach for breach in breaches(wrong) if not breach.startswith(allowed)]
    assert not found, "name the exceptions that are expected"


def test_open_ends_name_an_issue() -> None:
    def wrong(path: Path) -> list[str]:
        return re.findall(r"\b(?:TODO|FIXME|XXX)\b(?! ?\(?#\d)", path.read_text(encoding="utf-8"))

    assert not breaches(wrong)

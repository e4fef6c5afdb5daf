# On a machine that has only Python 3.11 or newer, git and make: `make leaderboard`. Everything is installed into .venv.

PYTHON ?=
VENV ?= .venv

python := $(VENV)/bin/python
pip := $(python) -m pip --disable-pip-version-check --no-input --quiet
stamp := $(VENV)/.set-up

# A Python is good enough when it can make a virtual environment; Debian's lacks ensurepip without python3-venv.
good_python := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.SUFFIXES:
.PHONY: help setup leaderboard test lint check format bench lock clean

help:
	@echo 'make leaderboard  run the embedded suite (no download of data or weights) and build the site in _site/'
	@echo 'make test         run the tests'
	@echo 'make check        formatting, lint, types, tests: what a change has to pass'
	@echo 'make lint         the same without the tests'
	@echo 'make format       rewrite the code to the format that `make check` wants'
	@echo 'make bench        measure the speed of the hot paths (BENCH_FLAGS="--ratios FILE.csv": and write the ratios)'
	@echo 'make lock         pin the dependencies of pyproject.toml again (LOCK_FLAGS=--upgrade: at their newest)'
	@echo 'make setup        only make the environment; all of the above do it when it is missing or out of date'
	@echo 'make clean        remove the site, builds and caches; keeps runs/ and $(VENV)/'
	@echo
	@echo 'PYTHON=...  Python to make the environment with; default: the first of python3.13, 3.12, 3.11, python3'
	@echo 'VENV=...    folder of the environment; default: .venv'

setup: $(stamp)

# The stamp is the last thing written: a set-up that failed or was interrupted is tried again.
$(stamp): requirements.lock pyproject.toml
	@rm -f '$@'
	@if ! '$(python)' -m pip --version >/dev/null 2>&1; then \
	    if [ -n '$(PYTHON)' ]; then set -- '$(PYTHON)'; else set -- python3.13 python3.12 python3.11 python3; fi; \
	    for found do "$$found" -c '$(good_python)' >/dev/null 2>&1 && break; found=; done; \
	    if [ -z "$$found" ]; then \
	        echo "error: Python 3.11 or newer with venv is needed, but none of these is: $$*;" \
	            'install one (Debian: python3-venv), or name it: make PYTHON=/path/to/python3.' >&2; \
	        exit 1; \
	    fi; \
	    "$$found" -m venv --clear '$(VENV)'; \
	fi
	@echo 'Installing requirements.lock into $(VENV): several GB, some minutes the first time.'
	@$(pip) install -r requirements.lock
	@$(pip) install --no-deps --no-build-isolation --editable .
	@touch '$@'

leaderboard: $(stamp)
	$(VENV)/bin/pruneboard run digits --out runs
	$(VENV)/bin/pruneboard table digits --runs runs
	@$(VENV)/bin/pruneboard site build --runs runs --out _site >/dev/null
	@echo 'Open in a browser: $(CURDIR)/_site/index.html'

# One process per core, each with files of its own, in the order of their names: the few tests of some take longest.
# `make test TEST_FLAGS=...` adds options, such as `-n 0` or `-k name`.
test: $(stamp)
	$(python) -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

lint: $(stamp)
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy -p pruneboard.benchmark -p pruneboard.criteria -p pruneboard.models

check: lint test

format: $(stamp)
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

bench: $(stamp)
	$(python) -m pytest tests/benchmarks --benchmark-enable --benchmark-only --benchmark-columns=median,iqr,rounds $(BENCH_FLAGS)

# The lock serves CPython 3.11 to 3.13 on every platform; it names versions and hashes, never where files come from.
lock: $(stamp)
	$(python) -m uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
	    --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet $(LOCK_FLAGS) -o requirements.lock

clean:
	rm -rf _site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -exec rm -rf {} +

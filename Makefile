# Two commands do everything: `make run` and `make test`. Each prepares what it needs first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VAR ?= var
# -n: two test processes at most, since many tests start servers of their own.
PYTEST_FLAGS ?= -n 2 --dist loadfile --max-worker-restart 2

.PHONY: help run test lint format bench fuzz wheel clean
.DEFAULT_GOAL := help

help:
	@echo 'make run     install into $(VENV) and start the SIP server on 127.0.0.1:5060 (UDP and TCP)'
	@echo 'make test    install what the tests need and run them all'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   CPU time per call, see bench/README.md'
	@echo 'make fuzz    a minute of hostile packets for the parser'
	@echo 'make wheel   build dist/*.whl with the compiled hot path'
	@echo 'make clean   remove what the other commands made'

# The virtual environment, or one clear line about what to install.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'opensipspy needs Python 3.11 or newer; this is '"$$($(PYTHON) -V 2>&1)"'. Try: make $(MAKECMDGOALS) PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo 'The venv module is missing. Install it first: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Sources are used in place and uncompiled, so that an edit takes effect at the next start.
$(VENV)/.installed-run: $(BIN)/python pyproject.toml
	OPENSIPSPY_PURE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[http]'
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	OPENSIPSPY_PURE=1 $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed-run

run: $(VENV)/.installed-run
	@exec $(BIN)/opensipspy quickstart --directory $(VAR)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(PYTEST_FLAGS) $(TESTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench $(BENCH)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.fuzz.fuzz_message --seconds 60

# setuptools would put stale files of an older build into the wheel.
wheel: $(VENV)/.installed-dev
	rm -rf build dist
	$(BIN)/python -m build --wheel

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

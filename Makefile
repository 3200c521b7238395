# Everything below runs from a clean clone with Python 3.12 and git; no step needs root.
#   make env          the environment in .venv, from uv.lock (the second time: nothing to do)
#   make quickstart   record, train, evaluate and report on the simulated arm, 12 minutes on two cores
#   make test         all tests, offline, in two processes (`pytest` alone: in one)
#   make lint         what CI checks before the tests
#   make format       mends what `make lint` says about formatting
#   make clean        removes .venv and caches; outputs/ stays

SHELL := /bin/bash
PYTHON ?= python3.12
UV_VERSION := 0.13.8
VENV := .venv
STAMP := $(VENV)/.uv-synced
RUN := $(VENV)/bin/

.PHONY: env quickstart test lint format clean

env: $(STAMP)

# Bytecode is compiled once, here: where Python may not write it, every process would compile torch and LeRobot.
$(STAMP): uv.lock pyproject.toml
	@command -v git >/dev/null || { echo "make env: git is not on PATH; install it (Debian, Ubuntu: sudo apt-get install git)." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || { \
	  echo "make env: needs Python 3.12, and '$(PYTHON)' is not one here. Install it, or name yours:" >&2; \
	  echo "  Ubuntu 24.04:  sudo apt-get install python3.12 python3.12-venv" >&2; \
	  echo "  macOS:         brew install python@3.12" >&2; \
	  echo "  pyenv:         pyenv install 3.12      (.python-version then selects it)" >&2; \
	  echo "  elsewhere:     make env PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make env: this Python 3.12 cannot make environments (Debian, Ubuntu: sudo apt-get install python3.12-venv)." >&2; exit 1; }
	@$(RUN)python -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(RUN)python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(RUN)uv sync --frozen --compile-bytecode
	@touch $@
	@$(RUN)hybridpolicy info || true  # it says what is missing and how to get it; tests need none of it to start

quickstart: env
	$(RUN)hybridpolicy quickstart

test: env
	$(RUN)pytest -n 2

lint: env
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)typos
	$(RUN)mypy

format: env
	$(RUN)ruff check --fix .
	$(RUN)ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

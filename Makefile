# Each target makes its own virtual environment in .venv; nothing has to be installed first but Python 3.11 or newer.
#   make demo     a tournament on real text, from certificates to verdict, samples and a report: eight minutes on two cores
#   make test     lint, types, import contracts, tests: twelve minutes on two slow cores
#   make check    the same with full counts, and the slow tests: up to ninety minutes; writes docs/check.json
#   make pretrained   the small models that come with the package, trained: 25 minutes on one core
#   make bench    speed and memory against peers; prints ratios, writes benchmarks/results/ and docs/benchmarks.md

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

.PHONY: demo test check bench pretrained lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/formers demo

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/basedpyright
	$(BIN)/lint-imports

check: $(VENV)/.installed-dev lint
	HYPOTHESIS_PROFILE=full $(BIN)/python -m pytest -n 2 -m "slow or not slow" --result-json docs/check.json

pretrained: $(VENV)/.installed
	$(BIN)/python -m formers.experiments.pretrained

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "formers needs Python 3.11 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev,bench]'
	touch $@ $(VENV)/.installed $(VENV)/.installed-dev

clean:
	rm -rf $(VENV) build dist

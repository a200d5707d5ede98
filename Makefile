# Each target is one line to a real command; the two stamps install what they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: run test check bench

run: .venv/run-installed
	$(BIN)/forecaster demo $(ARGS)

test: .venv/dev-installed
	$(BIN)/python -m pytest $(ARGS)

check: .venv/dev-installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m pytest

bench: .venv/run-installed
	$(BIN)/forecaster bench model $(ARGS)

.venv/run-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(PIP) torch && $(PIP) --editable . && touch $@

.venv/dev-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(PIP) torch && $(PIP) --editable '.[dev]' && touch $@

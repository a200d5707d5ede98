# Each target is one line to a real command; the two stamps install what they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: run test test-postgres check bench soak

run: .venv/run-installed
	$(BIN)/forecaster demo $(ARGS)

test: .venv/dev-installed
	$(BIN)/python -m pytest $(ARGS)

test-postgres: .venv/dev-installed
	$(BIN)/python -m pytest -m postgres $(ARGS)

check: .venv/dev-installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m pytest

bench: .venv/run-installed
	$(BIN)/forecaster bench model $(ARGS)

soak: .venv/dev-installed
	$(BIN)/python -m tests.faults.kill_writer --cycles 10000
	$(BIN)/python -m tests.faults.power_cut --images 100000

.venv/run-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(PIP) torch && $(PIP) --editable . && touch $@

.venv/dev-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(PIP) torch && $(PIP) --editable '.[dev]' && touch $@

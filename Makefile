# Each target is one line to a real command; the stamps install what they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
export PYTHONDONTWRITEBYTECODE := # bytecode is kept, whatever the shell says: else every run parses every test again

.PHONY: run test test-all coverage check bench soak mutants

run: .venv/run-installed
	$(BIN)/forecaster demo $(ARGS)

# Minutes, in this process alone; make test-all has the parts that need more.
test: .venv/dev-installed
	$(BIN)/python -m pytest -q -n logical --dist worksteal $(ARGS)

test-all: .venv/dev-installed
	$(BIN)/python -m tests.parts $(PART) -- $(ARGS)

coverage: .venv/dev-installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m tests.parts $(or $(PART),fast) -- $(ARGS)
	$(BIN)/coverage combine --quiet && $(BIN)/coverage report --skip-covered --precision=1

check: .venv/dev-installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/python -m tests.prose && $(MAKE) test

bench: .venv/dev-installed
	$(BIN)/python -m tests.benchmarks.model_speed $(ARGS)

soak: .venv/dev-installed mutants
	$(BIN)/python -m tests.faults.kill_writer --cycles 10000
	$(BIN)/python -m tests.faults.power_cut --images 100000
	$(BIN)/python -m tests.faults.kill_daemon --kills 500
	$(BIN)/python -m tests.faults.clocks
	$(BIN)/python -m tests.faults.stop_daemon --rounds 12
	$(BIN)/python -m tests.faults.standby --rounds 5
	$(BIN)/python -m tests.faults.one_victim
	$(BIN)/python -m tests.simulation --seeds 300 --processes 2
	$(BIN)/python -m tests.faults.as_of --pairs 10000
	$(BIN)/python -m tests.faults.files --files 200000
	$(BIN)/python -m tests.benchmarks.labels
	$(BIN)/python -m tests.benchmarks.row_storm --rows 1000000
	$(BIN)/python -m tests.benchmarks.significance
	$(BIN)/python -m tests.benchmarks.align
	$(BIN)/python -m tests.benchmarks.equality

# Hours: small faults in the modules that everything else trusts, and whether the fast tier sees them.
mutants: .venv/dev-installed
	$(PIP) mutmut==3.8.1 && $(BIN)/python -m tests.mutants $(ARGS)

.venv/run-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(PIP) torch && $(PIP) --editable . && touch $@

.venv/dev-installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv && $(PIP) torch && $(PIP) --editable '.[dev]' && touch $@

.venv/ray-installed: .venv/dev-installed
	$(PIP) --editable '.[dev,ray]' && touch $@

# An environment for each framework, since their pins exclude each other; without torch, which no adapter needs.
LIGHT := alembic numpy pandas pydantic 'pytest>=8.4' 'pytest-timeout>=2.4' sqlalchemy structlog

.venv-adapters/freqtrade/installed: PIN := freqtrade==2026.9
.venv-adapters/nautilus/installed: PIN := nautilus_trader==1.221.0
.venv-adapters/backtesting_py/installed: PIN := backtesting==0.6.6
.venv-adapters/%/installed: pyproject.toml
	$(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --quiet $(PIN) $(LIGHT)
	$(@D)/bin/python -m pip install --quiet --no-deps --editable . && touch $@

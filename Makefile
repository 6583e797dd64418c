# Everything runs in an environment of its own, .venv, made on first use from the exact versions in constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install run test test-all fuzz check bench gpu lock clean

help:  ## Print these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

install: $(READY)  ## Make .venv, the environment in which everything runs

run: $(READY)  ## Merge the embedded family into one model, evaluate it, and say what it keeps of every skill
	$(BIN)/python -m src.run

test: check  ## Lint, type-check and test (what CI runs)
	$(BIN)/python -m pytest -n logical --maxprocesses 8

test-all: check  ## The slow tests too
	$(BIN)/python -m pytest -n logical --maxprocesses 8 -m ""

fuzz: $(READY)  ## The property tests with new examples, instead of the same ones every time
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis

check: $(READY)  ## Lint, format, types and layers only
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(READY)  ## Measure speed against today's ways and against the limits
	$(BIN)/python -m benchmarks.kinship
	$(BIN)/python -m benchmarks.evolution
	$(BIN)/python -m benchmarks.merging

gpu: $(READY)  ## Measure and check what only a GPU shows, in at most ten minutes (without one: try the logic)
	$(BIN)/python -m benchmarks.gpu

lock:  ## Pin anew: the newest versions that pyproject.toml allows, for every Python and platform (vLLM brings its own torch)
	$(PYTHON) -m pip install --quiet uv
	$(PYTHON) -m uv pip compile --universal --python-version 3.10 --no-annotate \
	    $(foreach extra,dev slurm ray postgres dashboard real,--extra $(extra)) \
	    --prerelease if-necessary-or-explicit --custom-compile-command "make lock" --output-file constraints.txt pyproject.toml

clean:  ## Remove the environment and caches (outputs/ stays)
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build kinmerge.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

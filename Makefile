# Every target sets up what it needs: Python 3.11+, make and git are enough. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
# Options for pip, e.g. another package index: PIP_ARGS="--index-url ..."
PIP_ARGS ?=
# pytest's worker processes, and further arguments for it: make test ARGS="-k split -x"
WORKERS ?= auto
ARGS ?=
# make bench BENCH="data foundation" BENCH_ARGS="--seeds 1"
BENCH ?= data
BENCH_ARGS ?=

BIN := $(VENV)/bin
DEMO_READY := $(VENV)/.ready-demo
DEV_READY := $(VENV)/.ready-dev
BENCH_READY := $(VENV)/.ready-bench
ALL_READY := $(VENV)/.ready-all
# One thread in each worker: the workers are the parallelism, and the numbers do not depend on the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
PARALLEL := -n $(WORKERS) --maxprocesses 4 --dist loadfile

# Tests that read public data sets run where these lie, and are skipped elsewhere.
ifneq ($(wildcard ../shared/data),)
CORRAL_DATA ?= $(abspath ../shared/data)
export CORRAL_DATA
endif
export PIP_ARGS
# .ci/install leaves compiling to the first import, whose result must be kept: else every process compiles torch again.
unexport PYTHONDONTWRITEBYTECODE
# Where tests keep pictures of pages.
CORRAL_SCREENSHOTS ?= $(abspath build/screenshots)
export CORRAL_SCREENSHOTS

.PHONY: help demo test test-all check format docs tree bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

$(DEMO_READY): pyproject.toml constraints.txt
	@.ci/install "$(PYTHON)" "$(VENV)" ann,report
	@touch $@

$(DEV_READY): pyproject.toml constraints.txt
	@.ci/install "$(PYTHON)" "$(VENV)" ann,report,serve,redis,export,docs,dev
	@touch $(DEMO_READY) $@

$(BENCH_READY): pyproject.toml constraints.txt
	@.ci/install "$(PYTHON)" "$(VENV)" ann,report,serve,redis,export,docs,dev,bench
	@touch $(DEMO_READY) $(DEV_READY) $@

$(ALL_READY): pyproject.toml constraints.txt
	@.ci/install "$(PYTHON)" "$(VENV)" ann,report,serve,redis,scale,export,docs,dev,crosscheck
	@touch $(DEMO_READY) $(DEV_READY) $@

demo: $(DEMO_READY)  ## train, measure and use a two-stage recommender on real purchases
	$(BIN)/corral demo

test: $(DEV_READY)  ## all tests but the slow ones, with the documents' code
	$(PYTEST) $(PARALLEL) $(ARGS)

test-all: $(ALL_READY)  ## the slow tests too
	$(PYTEST) $(PARALLEL) -m "slow or not slow" $(ARGS)

# The tests include the architecture test, the documents' code blocks and their links.
check: $(DEV_READY)  ## formatting, lint, types and all that `make test` runs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) test

format: $(DEV_READY)  ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DEV_READY)  ## the documentation's site, into build/site: offline, every link and anchor checked
	$(BIN)/python tools/build_docs.py

tree: $(DEV_READY)  ## write the tree in ARCHITECTURE.md anew from the modules' docstrings
	$(BIN)/python tests/test_architecture.py

bench: $(BENCH_READY)  ## benchmarks/bench_$BENCH.py, resumable; writes docs/results
	$(BIN)/corral bench $(BENCH) --args "$(BENCH_ARGS)"

clean:  ## back to a fresh clone; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

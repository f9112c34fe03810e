# Two commands on a fresh machine: `make run` and `make test`. `make help` lists the rest.
# The first that starts: version managers leave commands on the path that do not.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3.14 python3; do $$each -c "" 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Some images set it. A start of torch and sentence-transformers took 54 s without bytecode and 14 to 19 s with it, on a busy machine.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install wheel run quick ui test test-processor test-deployment check bench clean
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## install the project into .venv, versions as pinned in constraints.txt

# --no-compile: bytecode is written when a module is first imported, not for 20,000 files that no run imports.
# -qq: errors only; what pip says of its own sources and versions is nothing that a user of this project can act on.
PIP_INSTALL := $(BIN)/pip install -qq --no-compile --constraint constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) torch==2.13.0
	$(PIP_INSTALL) --editable .
	touch $@

$(DEV_STAMP): $(STAMP)
	$(PIP_INSTALL) --editable '.[dev]'
	touch $@

wheel: install ## the package as one file in dist/, for a machine without this checkout
	$(BIN)/pip wheel -qq --no-deps --wheel-dir dist .

run: install ## the whole line on the embedded collection: corpus to champion, then the leaderboard
	$(BIN)/distill-assets run

quick: install ## the same on one package and fewer queries
	$(BIN)/distill-assets run --quick

ui: install ## the Dagster UI on 127.0.0.1:3000, over what `make run` recorded
	$(BIN)/distill-assets ui

test: $(DEV_STAMP) ## all tests but those of a whole deployment
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

test-processor: $(DEV_STAMP) ## tests of what depends on the processor: models, retrieval, training
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 $(addprefix distill_assets_tests/,models retrieval training)

test-deployment: $(DEV_STAMP) ## the UI in a browser and the daemon, started for real: some minutes
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m deployment distill_assets_tests/deployment

check: $(DEV_STAMP) ## lint, format, types, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/dg check defs

bench: $(DEV_STAMP) ## our engines against the peers' on the same work; writes benchmarks/README.md and results.json
	$(BIN)/python -m benchmarks.bench

clean: ## remove the environment and everything that runs made
	rm -rf $(VENV) data/*.duckdb* data/embeddings data/lexical data/checkpoints data/report data/dagster_home data/beir-* data/study

# Every command of the project. `make help` lists them. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RECIPE ?= simcse-unsup
SEEDS  ?= 5
TASKS  ?=
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help setup train eval test check audit bench bench-outcome gpu-check report reproduce reproduce-paper tables docs wheel push clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

setup: $(VENV)/ready  ## make the virtual environment and install (every target does so first)

$(VENV)/ready: pyproject.toml
	@echo "setup      $(VENV) (once; torch is large)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

train: setup  ## train a recipe: RECIPE=simcse-unsup ARGS="--trainer.max_steps=50"
	@$(BIN)/cse train $(RECIPE) $(ARGS)

eval: setup  ## score a checkpoint: CKPT=runs/.../best TASKS=sts|sts-mini|STSB-dev ARGS="--data DIR"
	@$(BIN)/cse eval $(CKPT) $(if $(TASKS),--tasks $(TASKS)) $(ARGS)

test: setup  ## run the tests on the cores of this machine: ARGS="tests/data -k pairs" selects, ARGS="-n 0" uses one process
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

check: setup  ## lint, format, types, and every recipe, without training
	@$(BIN)/ruff check cse eval tests
	@$(BIN)/ruff format --check --quiet cse eval tests
	@$(BIN)/mypy
	@$(BIN)/cse check

audit: setup  ## compare the installed packages with known advisories; one that cannot be looked up fails it
	@$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/installed.txt
	@$(BIN)/python -m pip_audit --strict --no-deps --disable-pip --progress-spinner off -r $(VENV)/installed.txt $(ARGS) || { \
	  echo "audit      failed: a package above has an advisory, or could not be looked up" >&2; \
	  echo "fix: update a package that has an advisory, in pyproject.toml if it is bound there; if packages were 'not found" >&2; \
	  echo "  on PyPI', the index here serves no advisories: run it where pypi.org answers, or make audit ARGS='-s osv'" >&2; \
	  exit 1; }

bench: setup  ## our speed against sentence-transformers and mteb, into runs/bench/bench.json
	@$(BIN)/python -m eval bench $(ARGS)

bench-outcome: setup  ## what cse adapt and sentence-transformers make of the same start: ARGS="FOLDER --encoder MODEL"
	@$(BIN)/python -m eval outcome $(ARGS)

gpu-check: setup  ## on a machine with a GPU: its tests, speed and memory, into runs/bench/gpu.json
	@$(BIN)/python -m eval gpu-check $(ARGS)

report: setup  ## table and page of every run under runs/
	@$(BIN)/cse eval report runs $(ARGS)

reproduce: setup  ## train and score a recipe with SEEDS=5 seeds, against the band that it declares
	@$(BIN)/python -m eval reproduce $(RECIPE) --seeds $(SEEDS) $(ARGS)

reproduce-paper: setup  ## published recipes on a GPU, SEEDS=5 each, beside the published scores: ARGS="--plan" shows the cost
	@$(BIN)/python -m eval reproduce-paper --seeds $(SEEDS) $(ARGS)

tables: setup  ## update the tables of the documentation from eval/results
	@$(BIN)/python -m eval tables

docs: setup  ## build the documentation site into site/; any warning fails it
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

wheel: setup  ## build the distribution into dist/: the source archive, and the wheel from it
	@$(BIN)/python -m build --outdir dist .

push: setup  ## publish a checkpoint: CKPT=runs/.../best REPO=you/name
	@$(BIN)/cse push $(CKPT) $(REPO) $(ARGS)

clean:  ## remove the virtual environment and what tools leave; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache

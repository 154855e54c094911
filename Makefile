# Everything a person runs. Each target makes .venv from requirements.lock when it is missing or older.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= all
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(EXTRAS)
DATASET ?= complete-journey
# Long jobs on few cores: one OpenMP thread a core, none spinning.
export OMP_WAIT_POLICY := PASSIVE
# Airflow and the back-fill start dozens of processes: without bytecode on disk each would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test test-all test-quick lint format bench kernels-report airflow lock clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# pip brings torch, since it also finds a CPU wheel that lies on this disk; uv does the rest in seconds. Nothing is compiled
# ahead: of the thousands of modules, a tenth is ever imported.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tokenlake needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c requirements.lock uv torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c requirements.lock --build-constraint requirements.lock -e '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installed-*; touch $@

venv: $(STAMP)  ## the virtual environment alone

demo: venv  ## the whole daily path on real data in minutes (FULL=1: all of it; DATASET=complete-journey | movielens-100k)
	$(BIN)/tokenlake demo --dataset $(DATASET)$(if $(FULL), --full)

# The longest files first, by tests/cpu_seconds.tsv, in place of xdist's order.
PYTEST := $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test: venv  ## the tests, real services included, in ten minutes on two cores
	$(PYTEST) -m "not slow"

test-all: venv  ## and whole crash harnesses, long soaks, everything that compiles for GPUs
	$(PYTEST)

test-quick: venv  ## what is fast, in a minute and a half
	$(PYTEST) -m "not slow and not integration and not heavy"

lint: venv  ## ruff, mypy strict, import-linter, the words of the code, the Compose specification
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/words.py
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: venv  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: venv  ## every benchmark, each a ratio to a peer measured in the same run
	$(BIN)/tokenlake bench

kernels-report: venv  ## compile every GPU kernel for sm_80, sm_90, sm_100 and gfx942; writes the table in docs/kernels.md
	$(BIN)/python -m tokenlake_kernels.report --docs docs/kernels.md

airflow: venv  ## Airflow on loopback with the demo project; Ctrl-C stops all of it
	$(BIN)/tokenlake airflow

lock: venv  ## resolve pyproject.toml again into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --all-extras pyproject.toml -o requirements.lock

clean:  ## remove what make made
	rm -rf $(VENV) demo

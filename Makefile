# `make train` and `make test` do all the set-up they need, inside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= alfworld_tiny
SEED ?= 0
ARGS ?=
# Processes that share out the files of tests.
WORKERS ?= 2
# Some dependencies call `python` when they are built: the venv's.
INSTALL = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pip install --quiet \
  --disable-pip-version-check -c constraints.txt -e
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile
# A name, a name:variant, or a file (with or without :variant).
CONFIG_FILE = $(if $(findstring .py,$(CONFIG)),$(CONFIG),experiments/configs/$(subst :,.py:,$(CONFIG))$(if $(findstring :,$(CONFIG)),,.py))

# One program at a time: the two halves of these targets must not overlap.
.NOTPARALLEL:
.PHONY: train test test-all lint format venv clean

train: $(VENV)/.run
	$(BIN)/python -m experiments.train \
	  --config=$(CONFIG_FILE) \
	  --config.seed=$(SEED) $(ARGS)

test: $(VENV)/.test
	$(PYTEST) --durations=10 $(ARGS)

test-all: $(VENV)/.test
	$(PYTEST) -m 'slow or not slow' --durations=20 $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(VENV)/.test

# ALFWorld's planner and emulator are compiled on installation.
$(VENV)/bin/pip:
	@for tool in cmake g++ make; do command -v $$tool >/dev/null || { \
	  echo "hgpo_jax: '$$tool' was not found; alfworld's dependencies are" \
	  "compiled with cmake and g++. On Debian or Ubuntu:" \
	  "apt-get install cmake g++ make"; exit 1; }; done
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
	  'hgpo_jax: Python 3.11 or newer is needed; make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: setup.py constraints.txt | $(VENV)/bin/pip
	$(INSTALL) .
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(INSTALL) '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info

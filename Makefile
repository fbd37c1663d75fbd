# Two commands are all you need: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
MINUTES ?= 5

.DEFAULT_GOAL := help
.PHONY: help install install-dev quickstart test test-slow lint requirements clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# torch is installed first and pinned: a package that only asks for "torch" may bring gigabytes of another build.
$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

install: $(BIN)/.installed ## make .venv with the program

install-dev: $(BIN)/.installed-dev ## the same with everything that the tests need

quickstart: $(BIN)/.installed ## from raw text to a talking model in about five minutes (MINUTES=5)
	$(BIN)/llm-trainer quickstart --minutes $(MINUTES)

test: $(BIN)/.installed-dev ## run the test suite (no network, no GPU, under five minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: $(BIN)/.installed-dev ## run the slow and distributed tests too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not gpu"

lint: $(BIN)/.installed-dev ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

requirements: $(BIN)/.installed-dev ## which promises a test holds
	@$(BIN)/python -m pytest -q --requirements

clean: ## remove what the tools leave behind (not runs/, not cache/)
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info

# Two commands do everything on a machine with Python 3.11 or newer: `make demo` and `make test`.
# Every other target is what developers, pre-commit and .ci/run call. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Tests run in two processes: one thread each, so that they do not fight for the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help demo test slow check docs site notebooks bench fuzz nightly clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(VENV)/.installed ## install what a user needs, fit the bundled data, write forecast.csv and forecast.png
	$(BIN)/latentode demo

test: $(VENV)/.installed-dev ## run the default tests (not slow, not statistical, not gpu)
	$(PYTEST) -n 2 -m "not slow and not statistical and not gpu"

slow: $(VENV)/.installed-dev ## run the slow and statistical tests
	@# pytest exits with 5 where no test has the marker; that is no failure.
	$(PYTEST) -n 2 -m "(slow or statistical) and not gpu" || [ $$? -eq 5 ]

check: $(VENV)/.installed-dev ## format, lint, types, import layers
	@echo "== ruff format: is every file formatted?"
	$(BIN)/ruff format --check
	@echo "== ruff check: lint"
	$(BIN)/ruff check
	@echo "== pyright: types"
	$(BIN)/pyright --warnings --pythonpath $(BIN)/python
	@echo "== import-linter: layers"
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev ## run the doctests, every command of the README and of the site's pages, and build the site
	@echo "== doctests of the package"
	$(PYTEST) --doctest-modules latentode -p no:cacheprovider || [ $$? -eq 5 ]
	@echo "== README.md, block by block"
	OMP_NUM_THREADS=2 $(BIN)/python tests/docs/run_readme.py README.md
	@echo "== docs/, page by page"
	OMP_NUM_THREADS=2 $(BIN)/python tests/docs/run_readme.py docs
	$(MAKE) site

site: $(VENV)/.installed-dev ## build the documentation into build/site; nothing is fetched, a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

notebooks: $(VENV)/.installed-dev ## execute the notebooks (NAME=02_own_csv: one) and store what the site shows of them
	OMP_NUM_THREADS=2 $(BIN)/python tools/site/notebooks.py $(NAME)

bench: $(VENV)/.installed-bench ## run the benchmarks, print ratios, write JSON (real tables: $$LATENTODE_DATA or ../shared/data)
	@mkdir -p benchmarks/results
	@# The ablation trains for hours and is run by hand.
	@for file in $(filter-out benchmarks/ablation.py,$(wildcard benchmarks/*.py)); do echo "== $$file"; \
	  $(BIN)/python "$$file" --out "benchmarks/results/$$(basename "$$file" .py).json"; done

fuzz: $(VENV)/.installed-dev ## fuzz every reader of files by atheris; RUNS=100000 inputs each, what fails is left in runs/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --runs $(or $(RUNS),100000)

nightly: $(VENV)/.installed-dev ## all tests, gpu and slow ones included, then fuzzing and the benchmarks
	$(PYTEST) -n 2
	$(MAKE) fuzz
	$(MAKE) bench

clean: ## remove the environment, caches and the demo's output
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist runs/demo
	find latentode tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamp files: an installation is made once and again when what it installs has changed. The editable install
# follows the source tree by itself.
$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "no python3.11 or python3 on PATH: install Python 3.11 or newer"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "$(PYTHON) is older than Python 3.11: say which one to use with make PYTHON=/path/to/python3.11"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.installed $@

# The peers' own requirements would pull another torch: they come alone, each with what it lacks beside ours.
$(VENV)/.installed-bench: $(VENV)/.installed-dev benchmarks/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements.txt
	@touch $@

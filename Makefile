# Commands for a fresh machine; they need Python 3.11 or newer and nothing else.
#   make demo   train on the included healthy brains, find lesions, draw and measure them (demo_run/)
#   make test   check that everything works
#   make coverage   the same, and how much of the code the tests reach
#   make bench   time medvae's stages against MONAI and others (runs/bench.md)
#   make docs   build the documentation site: open site/index.html

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test coverage bench docs lint format clean help

help:
	@sed -n 's/^#   //p' Makefile

demo: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python pipelines/quickstart.py --out demo_run

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

coverage: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term

bench: $(INSTALLED)
	$(BIN)/python benchmarks/everything.py --out runs/bench.md

docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "written: site/index.html"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("medvae needs Python 3.11 or newer, this is " + sys.version.split()[0] + ". Try: make demo PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $(INSTALLED)

clean:
	rm -rf $(VENV) demo_run site

# make demo   segment the two bundled images and say where the pictures are
# make test   run the tests
# make lint   style, format and types
#
# Each makes .venv from nothing when it has to, with the versions of constraints.txt, and leaves it alone afterwards.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do command -v $$python && break; done)
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo

.PHONY: demo test doctest lint format clean

demo: $(VENV)/.installed
	$(BIN)/plurimask segment examples/nuclei.png -o $(DEMO)/nuclei --model nuclei --overwrite
	$(BIN)/plurimask segment examples/worms.tif -o $(DEMO)/worms --model worms --overwrite
	@echo
	@echo "Outlines coloured by doubt:"
	@ls $(DEMO)/*/*_overview.png

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

doctest: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --doctest-modules src

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO) dist .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "plurimask needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

# What the tests need includes what the demo needs.
$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(VENV)/.installed $@

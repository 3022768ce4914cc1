# Every target sets up what it needs in .venv and runs from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal
DOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir $(VENV)/site
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo browser test check hard clean

help:
	@echo "make demo   train the conditional VAE on the embedded data, to a finished report"
	@echo "make test   set up and run all tests"
	@echo "make check  lint, types, import contract, docs, and all tests"
	@echo "make hard   the long proofs of reliability: an hour, HARD=full up to their aims; SECONDS_OF_PROOFS, SEED"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[dev]"
	@touch $@ $(VENV)/.demo

demo: $(VENV)/.demo
	$(BIN)/sfumato demo

# The tests of the explorer's page need a Chromium; where none can be had they are skipped, and say so.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	    { apt-get update -qq && apt-get install -y -qq chromium; } || echo "no Chromium: the page is not tested"

test: $(VENV)/.dev browser
	$(PYTEST)

check: $(VENV)/.dev browser
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python dev/repetition.py
	$(DOCS)
	$(PYTEST)

SECONDS_OF_PROOFS ?= 3600
SEED ?= 0

hard: $(VENV)/.dev browser
	$(BIN)/python -m proofs --seconds $(SECONDS_OF_PROOFS) --seed $(SEED) --mutants --write $(if $(filter full,$(HARD)),--full)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

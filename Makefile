# Targets for people who work on nuebridge. `make demo` and `make test` need nothing but python3 and make.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PYTEST := $(BIN)/python -m pytest

PLUGINS := plugins/nuebridge-hf plugins/nuebridge-bridges plugins/nuebridge-tiny
APPS := apps/nuebridge-demo
PYPROJECTS := pyproject.toml constraints.txt $(wildcard plugins/*/pyproject.toml apps/*/pyproject.toml)
SAMPLE := plugins/nuebridge-tiny/src/nuebridge_tiny/sample.wav

# No test, demo or document fetches anything.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1

.DEFAULT_GOAL := help
.PHONY: help demo setup test lint types imports unit test-slow test-conformance test-install fairseq2 test-fairseq2 acceptance docs reference format tiny-en speech clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

demo: $(VENV)/.installed  ## transcribe the sample recording with the embedded model
	@$(OFFLINE) $(BIN)/nuebridge transcribe $(SAMPLE)

setup: $(VENV)/.installed-dev speech  ## everything for development, into .venv

test: setup lint types unit  ## all that a change must pass, under 12 minutes on 2 cores

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

imports: $(VENV)/.installed-dev  ## the import rules alone (`make test` has them too)
	$(BIN)/lint-imports

# One thread is the fastest for models this small, and the steadiest on a busy machine; two processes share the files.
unit test-slow test-conformance: export OMP_NUM_THREADS := 1

unit: $(VENV)/.installed-dev
	$(OFFLINE) $(PYTEST) -q -n 2 --dist loadfile --ignore=tests/acceptance tests plugins apps

test-slow: setup  ## tests that take minutes
	$(OFFLINE) $(PYTEST) -q -n 2 --dist loadfile -m slow --ignore=tests/acceptance tests plugins apps

test-conformance: setup  ## every component with all its examples, and the table encoder x bridge x decoder
	$(OFFLINE) $(PYTEST) -q -n 2 --dist worksteal -m "not slow" tests/conformance

test-install: setup  ## installs into fresh environments, with plugins from outside the repository
	$(PYTEST) -q -m install tests/install

fairseq2:  ## an environment that nuebridge-fairseq2 runs in, into .venv-fairseq2 (7 GB)
	.ci/fairseq2.sh install

test-fairseq2:  ## nuebridge-fairseq2's tests and the host's, in that environment
	.ci/fairseq2.sh

acceptance: setup  ## measures what the model cards and the issue promise
	$(OFFLINE) $(PYTEST) -q -s -m "not browser and not install" tests/acceptance

docs: $(VENV)/.installed-dev  ## build the documentation into site/
	$(BIN)/python docs/reference/generate.py
	$(OFFLINE) $(BIN)/mkdocs build --strict --quiet --site-dir site

format: $(VENV)/.installed-dev  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

tiny-en: setup  ## make the embedded default model again (hours; stages resume)
	$(MAKE) -C plugins/nuebridge-tiny/recipe PYTHON=$(abspath $(BIN)/python)

clean:  ## remove the environments and everything built
	rm -rf $(VENV) .venv-old .venv-fairseq2 site build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find nuebridge plugins apps tests -name __pycache__ -type d -prune -exec rm -rf {} +

# --- environments -------------------------------------------------------------------------------

# pip refuses the extra `all` beside editable plugins, so the plugins are spelled out. One build backend for all
# of them, and byte code on first use, halve the time.
INSTALL = $(PIP) hatchling editables && $(PIP) --no-build-isolation --no-compile

$(VENV)/.installed: $(PYPROJECTS) | $(BIN)/python
	@echo "installing nuebridge and its plugins into $(VENV) (a few minutes the first time)"
	@$(INSTALL) -e . $(addprefix -e ,$(PLUGINS))
	@touch $@

$(VENV)/.installed-dev: $(PYPROJECTS) | $(BIN)/python
	@echo "installing nuebridge, its plugins and the development tools into $(VENV) (a few minutes the first time)"
	@$(INSTALL) -e ".[dev]" $(addprefix -e ,$(PLUGINS) $(APPS))
	@touch $(VENV)/.installed $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "nuebridge needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	    "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# Some tests speak through espeak-ng, flite and Festival; without them they are skipped and say so.
speech:
	@missing=""; for program in espeak-ng flite; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	command -v festival >/dev/null || missing="$$missing festival festvox-kallpc16k festvox-kdlpc16k"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then root=""; elif sudo -n true 2>/dev/null; then root="sudo -n"; else root="none"; fi; \
	if [ "$$root" != none ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; \
	  { $$root apt-get update -qq && $$root apt-get install -y -qq --no-install-recommends $$missing; } >/dev/null \
	  || echo "could not install$$missing; the tests that need it are skipped" >&2; \
	else echo "without$$missing some tests are skipped (apt-get install$$missing)" >&2; fi

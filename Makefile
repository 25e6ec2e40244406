# make setup: .venv with every distribution of this checkout. make demo: setup, then one recipe.
# make test: setup, then the whole test suite. make check: ruff and mypy.
PYTHON ?= python3
BIN := .venv/bin
DISTRIBUTIONS := $(wildcard plugins/*)

.PHONY: setup demo test check
.DEFAULT_GOAL := setup

setup: .venv/.ready

.venv/.ready: pyproject.toml $(DISTRIBUTIONS:=/pyproject.toml)
	@ldconfig -p 2>/dev/null | grep -q libEGL.so.1 \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && apt-get install -y -qq libegl1 libgl1; } \
	  || echo "libEGL is missing: sudo apt-get install -y libegl1 libgl1"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]' $(DISTRIBUTIONS:%=-e %)
	@touch $@

demo: setup
	$(BIN)/python -m mirrorlib.run recipes/infonce.yaml

test: setup
	$(BIN)/pytest -n 2

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

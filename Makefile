# make setup: .venv with every distribution of this checkout. make demo: setup, then one recipe.
# make test: setup, then the whole test suite. make check: ruff and mypy.
PYTHON ?= python3
BIN := .venv/bin
DISTRIBUTIONS := $(wildcard plugins/*)

.PHONY: setup demo test check
.DEFAULT_GOAL := setup

setup: .venv/.ready

.venv/.ready: pyproject.toml $(DISTRIBUTIONS:=/pyproject.toml)
	@$(PYTHON) -c 'import ctypes; [ctypes.CDLL(n) for n in ("libEGL.so.1", "libGL.so.1")]' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && apt-get install -y -qq libegl1 libgl1; } \
	  || echo "libEGL or libGL is missing: sudo apt-get install -y libegl1 libgl1"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]' $(DISTRIBUTIONS:%=-e %)
	@touch $@

demo: setup
	$(BIN)/python -m mirrorlib.run recipes/infonce.yaml

test: setup
	OMP_NUM_THREADS=1 MLFLOW_DISABLE_TELEMETRY=true $(BIN)/pytest -n 2 --dist loadfile --durations 25

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `make demo` and `make test` are the two commands of the README. Each makes its own .venv if there is none.
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin

.PHONY: demo test check notebooks clean

# Waiting threads that sleep: spinning ones cost minutes where anything else runs on the machine.
demo: .venv/.demo
	OMP_WAIT_POLICY=passive $(BIN)/python examples/demo.py

# One OpenMP thread per worker: two workers with two threads each would fight for two cores.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict -p m3_core -p m3_integrations -p m3_training

# Run all notebooks anew and store what they show; the one about Elasticsearch starts a node of its own.
notebooks: .venv/.dev
	$(BIN)/python examples/run_notebooks.py

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e '.[qdrant]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e '.[dev]'
	touch .venv/.demo $@

clean:
	rm -rf .venv dist index .m3

# Every target sets itself up in .venv; nothing else needs to be installed by hand.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint check api slow soak fuzz bench docs clean
.DEFAULT_GOAL := test

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/installed  ## train CartPole, export it, prove the files, play them without torch
	$(BIN)/python -m examples.demo

test: lint  ## everything that fits in fifteen minutes; leaves out `slow`
	$(BIN)/pytest -n 2

check: lint  ## lint, types, layers, the contract tests; leaves out parity, exports and the demo
	$(BIN)/pytest -n 2 tests/test_contract.py

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

api: .venv/installed  ## write api.txt: the public names and how they are called
	$(BIN)/python -m tests.package.api

# Clients in other languages than Python; without npm, their tests skip.
tests/clients/node_modules/installed: tests/clients/package.json
	-npm install --prefix tests/clients --ignore-scripts --no-package-lock --no-audit --no-fund \
		--fetch-retries 1 --loglevel error && touch $@

slow: .venv/installed tests/clients/node_modules/installed  ## only what `test` leaves out: Inductor, learning, other languages
	$(BIN)/pytest -n 2 --dist loadfile -m slow

soak: .venv/installed  ## memory, drift and recompilations over 100,000 updates, and 200 exports
	$(BIN)/python -m benchmarks.soak --picture benchmarks/soak.png

fuzz: .venv/installed  ## bad input: every argument of every public callable spoiled; damaged files
	$(BIN)/python -m tests.fuzz
	$(BIN)/python -m tests.fuzz_files

bench: .venv/installed  ## the tables of benchmarks/README.md
	$(BIN)/python -m benchmarks.estimators
	$(BIN)/python -m benchmarks.estimators_cuda
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.updates
	$(BIN)/python -m benchmarks.first_update
	$(BIN)/python -m benchmarks.distributed
	$(BIN)/python -m benchmarks.exported
	$(BIN)/python -m benchmarks.precision
	$(BIN)/python -m benchmarks.end_to_end

docs: .venv/installed  ## the documentation's site, in build/site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf .venv runs build dist *.egg-info tests/clients/node_modules

# Everything runs in .venv, made once from constraints.txt; a second run installs nothing.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-reliability test-all lint bench clean

help:  ## Show the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: .venv/installed  ## Make the environment

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## A small model improves itself, in minutes on a CPU (ARGS="--seed 1")
	$(BIN)/self-rewarding-lm demo $(ARGS)

test: setup  ## The tests
	$(BIN)/pytest -n 2 -m "not slow" $(ARGS)

test-slow: setup  ## The tests that take minutes: the contract scripts, the demo's bars
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m slow $(ARGS)

test-reliability: setup  ## Runs killed at random instants of every kind of work, and gone on with (ARGS="--seed 7")
	@$(BIN)/python -m tests.reliability.kills $(ARGS)

test-all: test test-slow test-reliability  ## All of them

lint: setup  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup  ## The speed benchmarks, against peers; writes benchmarks/results.md (ARGS="--threads 2")
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py $(ARGS)

clean:  ## Remove the environment and what runs and tests wrote
	rm -rf .venv runs checkpoints spin-checkpoints build dist benchmarks/.published *.egg-info .pytest_cache .ruff_cache .mypy_cache

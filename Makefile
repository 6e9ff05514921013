# Every target works from a clean clone with Python 3.11 to 3.13, make and git.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c '' 2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
ARGS ?=

.PHONY: help setup demo check test bench simulate clean

help:  ## Show this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup:  ## Make .venv and install everything; quick when nothing changed
	@test -n "$(PYTHON)" || { echo "setup: no Python found; install Python 3.11, 3.12 or 3.13"; exit 1; }
	@$(PYTHON) cluster/bootstrap.py

demo: setup  ## Start the stack and work the support queue; ARGS="--exit --report report.json"
	@$(BIN)/mainspring demo $(ARGS)

check: setup  ## Lint, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup  ## All tests, in two processes; ARGS="-k name" for some
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope --no-loadscope-reorder $(ARGS)

bench: setup  ## List the benchmarks; make bench-NAME runs one
	@ls benchmarks/*.py | sed -n -E 's#benchmarks/([a-z]+)\.py#make bench-\1#p'

bench-%: setup
	$(BIN)/python -m benchmarks.$* $(ARGS)

simulate: setup  ## Simulate 1 to 2,000 GPU nodes; ARGS="--live" measures the live engine first
	@$(BIN)/python -m benchmarks.simulate $(ARGS)

clean:  ## Remove .venv, the local data and all caches
	rm -rf .venv .mainspring .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

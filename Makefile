# Each target is one verb and calls one tool. `make` lists the targets.
#
#   BACKEND=cpu|gpu   the engine to install (default: the one in .venv; without .venv, gpu if
#                     nvidia-smi succeeds, else cpu)
#   PYTHON=...        the interpreter (3.11 to 3.13) to create .venv with, if there is no .venv yet
#   ARGS="..."        arguments for demo, serve, test, soak, bench and lock

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BACKEND ?=
ARGS ?=
export PYTHON
# Importing vLLM takes twice as long without compiled bytecode, and every engine process imports it.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
BASELINE := proto/baseline.binpb

.PHONY: help demo serve test soak setup lint fmt gen baseline lock bench clean runtime

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: runtime ## run a turn of the embedded model that calls real tools, and show its trace
	@$(BIN)/precall demo $(ARGS)

serve: runtime ## serve the embedded model (ARGS="--model ..." for another)
	@$(BIN)/precall serve $(ARGS)

test: lint ## run all that CI runs: lint, then every test (ARGS="-k name" for some tests)
	@$(BIN)/python scripts/model_templates.py --uv .uv/bin/uv
	@$(BIN)/python -m tests $(ARGS)

setup: ## install the service, the engine and the development tools into .venv
	@scripts/setup dev $(BACKEND)

runtime:
	@scripts/setup runtime $(BACKEND)

lint: setup ## check style, types, import rules, the wire contract and generated code
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/gen.py --check
	$(BIN)/buf lint proto
	$(BIN)/buf breaking proto --against $(BASELINE)
	$(BIN)/buf format --diff --exit-code proto

fmt: setup ## format Python and proto files, and fix what ruff can fix
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	$(BIN)/buf format --write proto

gen: setup ## generate the Python stubs and events from proto/, and the copies of the fake server
	@$(BIN)/python scripts/gen.py

baseline: setup ## at a release, store the wire contract that later releases must be compatible with
	@$(BIN)/buf build proto --path proto/precall --exclude-source-info --output $(BASELINE)

lock: setup ## compile pyproject.toml into requirements/ (ARGS=--upgrade for newer versions)
	@.uv/bin/python scripts/lock.py --uv .uv/bin/uv $(ARGS)

soak: setup ## attack a server for ten minutes, after which nothing may be left (ARGS="--minutes 2")
	@$(BIN)/python -m tests.soak $(ARGS)

bench: setup ## measure precall against vLLM alone (docs/benchmarks.md)
	@$(BIN)/python -m bench $(ARGS)

clean: ## remove everything that make installed or built; the next target installs it again
	rm -rf .venv .uv .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

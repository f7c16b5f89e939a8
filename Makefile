# Ten targets at most. Everything slow is cached under the XDG cache directory; nothing is left running but by `make up`.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
.PHONY: help demo test check fuzz up down bench lock

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: .venv/ready ## the whole way once, on real brick hosts and a real Kubernetes
	@$(PYTHON) -m tests.testbed demo

test: .venv/ready ## every test: unit, contract, integration, e2e
	@$(PYTHON) -m tests.testbed test

check: .venv/ready ## ruff, mypy, import-linter, unit tests: before every commit
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports
	@$(PYTHON) -m pytest -q tests/unit

fuzz: .venv/ready ## a million damaged inputs for each parser
	@$(PYTHON) -m tests.fuzz

up: .venv/ready ## the testbed, left running (python -m tests.testbed status|exec|kubectl)
	@$(PYTHON) -m tests.testbed up

down: ## stops the testbed of `make up`
	@python3 -m tests.testbed down

bench: .venv/ready ## prints a table of ratios, writes build/bench.json
	@$(PYTHON) -m tests.testbed bench

lock: ## renews requirements/*.lock from pyproject.toml
	.venv/bin/uv pip compile -q --upgrade --generate-hashes --all-extras --python-version 3.11 --no-annotate --no-header pyproject.toml -o requirements/dev.lock
	.venv/bin/uv pip compile -q --generate-hashes --extra operator --extra csi --python-version 3.11 --no-annotate --no-header -c requirements/dev.lock pyproject.toml -o requirements/image.lock

# The environment is made anew when its inputs changed. protoc's output is part of it.
.venv/ready: requirements/dev.lock pyproject.toml hatch_build.py $(wildcard kadalu_ext/api/*.proto)
	@command -v python3 >/dev/null \
	  || { apt-get update && apt-get install -y --no-install-recommends python3-venv; } >/dev/null 2>&1 \
	  || { echo "python3 is missing, and apt-get cannot install python3-venv: that takes Debian 12, root, a network" >&2; exit 1; }
	@python3 -m tests.testbed.venv

# The checks of this project; `.ci/run` runs the same ones, in a virtual environment of its own.
# BIN is the bin folder of the virtual environment: `make test BIN=/elsewhere/bin`.

BIN = $(CURDIR)/.venv/bin
# Where `make versions` may make a folder of its own.
TEMPORARY = /tmp

# The tests call `queue-eval` as a user does. Debian has `ip` and `iptables` in the two last folders.
export PATH := $(BIN):$(PATH):/usr/sbin:/sbin

.PHONY: help setup lint types imports compile docs example test long soak hosts versions

help: ## List these verbs.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv, with the package and all that the checks need.
	python3 -m venv .venv
	.venv/bin/pip install --editable '.[dev,demo]'

lint: ## Check the code with ruff, and the Dockerfile with hadolint.
	"$(BIN)/ruff" check .
	if [ -x "$(BIN)/hadolint" ]; then "$(BIN)/hadolint" docker/Dockerfile; fi

types: ## Check the types with mypy.
	"$(BIN)/mypy"

imports: ## Check the import rules of docs/architecture.md.
	"$(BIN)/lint-imports"

compile: ## Compile all Python files of examples, benchmarks and docker.
	"$(BIN)/python" -m compileall -q examples benchmarks docker

docs: ## Make the site of docs/ in build/site; needs the extra `docs`.
	rm -rf build/site
	"$(BIN)/python" -m sphinx --fail-on-warning --keep-going --quiet --fresh-env -d build/site-cache docs build/site

example: ## Run the README's example, a search of about a minute.
	"$(BIN)/python" examples/tune_digits.py

test: ## Run the default tests, about 6 minutes on two cores.
	"$(BIN)/pytest" -q -n 3

long: ## Run the long tests, about 13 minutes.
	"$(BIN)/pytest" -q -n 3 -m "long and not hosts" --timeout 600

# Not part of `.ci/run`: variants of long tests, as with the other methods or with RQ's SimpleWorker.
soak: ## Run the variants of long tests, which take longest.
	"$(BIN)/pytest" -q -n 3 -m soak --timeout 600

hosts: ## Run the tests on several hosts, about 6 minutes; needs root.
	"$(BIN)/pytest" -q -m hosts --timeout 900

versions: ## Run some tests with the lowest dependencies, and with the newest Python.
	folder=$$(mktemp -d "$(TEMPORARY)/versions.XXXXXX") && trap 'rm -rf "$$folder"' EXIT && \
	PYTHON="$(BIN)/python" .ci/versions "$$folder"

# The two commands of a newcomer: `make up` and `make test`. Each installs what it needs first,
# into the active virtual environment, or into .venv where none is active.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := $(or $(VIRTUAL_ENV),.venv)
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.gameserver-autopilot
PYTEST = $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
ARGS ?=
# What makes an engine and its images where none can be pulled; there on some machines only.
PREPARE := ../shared/docker/prepare

.DEFAULT_GOAL := help
.PHONY: help install up check test test-slow e2e bench

help: ## Show this help
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1|/' | \
		while IFS='|' read -r name text; do printf '  make %-9s %s\n' "$$name" "$$text"; done

install: $(INSTALLED) ## Install everything, with exact versions

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[trainer,bench,dev]'
	touch $@

up: install ## Run the platform (ARGS='--trace my.csv --players-per-server 250')
	$(BIN)/autopilot up $(ARGS)

check: install ## Format, lint, types, layers, CloudFormation templates and every manifest
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/cfn-lint deploy/aws/template.yaml deploy/sagemaker/endpoint.yaml
	$(BIN)/python -m deploy.checks

test: install ## The tests that need no Docker, AWS or network (ARGS='-k NAME')
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: install ## Those of them that take long: clusters, long runs of the whole platform
	$(PYTEST) -m slow $(ARGS)

e2e: install ## The platform in containers, built, checked and removed (needs Docker)
	if [ -x $(PREPARE) ] && ! $(PREPARE) --check > /dev/null; then $(PREPARE); fi
	E2E_MUST_RUN=1 $(BIN)/pytest tests/e2e --capture=no --verbose $(ARGS)

bench: install ## Measure serving and stepping; prints tables, asserts nothing
	$(BIN)/python tests/bench/serving.py
	$(BIN)/python tests/bench/scale.py

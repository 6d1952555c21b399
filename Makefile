# Everything a checkout needs, on a machine that has make and Python 3.11 or later; `make help` lists it.

PYTHON ?= python3
ARGS ?=
UPGRADE ?=
MINUTES ?=

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed

# Wheels alone, each checked against the lock: nothing is compiled, and nothing unlocked is fetched to compile it.
INSTALL := $(BIN)/python -m pip install -qq --require-hashes --only-binary :all:
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-config \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

# Two processes, each with servers of its own: the tests wait more than they compute. A file stays in one of them, and
# the long ones, which are those with servers, come first.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# The checks run one after the other, also under `make -j`: the quick ones fail first and outputs do not mix.
.NOTPARALLEL:
.PHONY: help demo test lint unit e2e fuzz soak image-test bench bench-stalled format crds deploy rollout lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "PYTHON=python3.12 picks the interpreter of a new $(VENV); ARGS='-k name' goes to pytest."

demo: $(RUNTIME) ## the main job on this machine, on recorded reviews
	@$(BIN)/driftwall demo

test: lint $(DEV) ## every check: lint, then all the tests
	$(BIN)/python -m tests.e2e.binaries
	$(PYTEST) $(ARGS)

lint: $(DEV) ## ruff, mypy and the import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

unit: $(DEV) ## the tests that need neither a control plane nor the image
	$(PYTEST) --ignore=tests/e2e --ignore=tests/image $(ARGS)

e2e: $(DEV) ## the tests against a real control plane, built the first time
	$(BIN)/python -m tests.e2e.binaries
	$(PYTEST) tests/e2e $(ARGS)

fuzz: $(DEV) ## the fuzz tests again and again, at random, for MINUTES (30)
	end=$$(($$(date +%s) + 60 * $(or $(MINUTES),30))); while [ $$(date +%s) -lt $$end ]; do \
		$(BIN)/python -m pytest -q --hypothesis-profile=fuzz tests/test_fuzz.py tests/test_fuzz_bytes.py $(ARGS) || exit 1; \
	done

soak: $(DEV) ## writes of every verdict through the API server, as many as go, for MINUTES (10)
	$(BIN)/python -m tests.e2e.soak $(or $(MINUTES),10)

image-test: $(DEV) ## build the image and start it; installs buildah and debootstrap with apt-get if they are missing
	$(BIN)/python -m pytest tests/image $(ARGS)

bench: $(DEV) ## what a review costs, beside a no-op; ARGS='--quick', '--compare URL', '--soak 1000000'
	$(BIN)/python -m tests.bench $(ARGS)

bench-stalled: $(DEV) ## whether a reply waits for a log that nobody reads, or an API server that is stopped
	$(BIN)/python -m tests.bench.stalled

format: $(DEV) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

crds: $(RUNTIME) ## write deploy/crds after a change of webhook/policy.schema.json
	@$(BIN)/python -m webhook.crds deploy/crds

deploy: $(RUNTIME) ## write what in deploy/ follows from policies/
	@$(BIN)/python -m deploy.generate

rollout: $(DEV) ## run the commands of deploy/ROLLOUT.md and write down there what they say
	$(BIN)/python -m tests.e2e.binaries
	$(BIN)/python -m tests.e2e.rollout

lock: $(DEV) ## write the lock files after a change of pyproject.toml; UPGRADE=1 takes the newest releases
	$(LOCK) pyproject.toml -o requirements.txt
	$(LOCK) --group build -c requirements.txt -o requirements-build.txt
	$(LOCK) pyproject.toml --extra otel -c requirements.txt -o requirements-otel.txt
	$(LOCK) pyproject.toml --extra otel --group dev -c requirements-otel.txt -c requirements-build.txt \
		-o requirements-dev.txt
	@if grep -nE '://|^ *-[^-]' requirements*.txt; then \
		echo "A lock file names an index or a path (above): it must hold for everybody." >&2; exit 1; fi

clean: ## remove .venv and whatever the checks and builds left
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

$(RUNTIME): $(BIN)/pip requirements.txt requirements-build.txt pyproject.toml
	@echo "Installing what driftwall runs on, as locked, into $(VENV)"
	@$(INSTALL) -r requirements.txt -r requirements-build.txt
	@$(BIN)/python -m pip install -qq --no-index --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): $(RUNTIME) requirements-dev.txt
	@echo "Installing the tools of the checks, as locked, into $(VENV)"
	@$(INSTALL) -r requirements-dev.txt
	@$(BIN)/python -m pip check > $@.log || { cat $@.log >&2; echo "Run 'make lock'." >&2; exit 1; }
	@touch $@

# pip is the last thing that venv puts there, so an interrupted run is made again.
# Debian's python3 comes without what venv needs; its package is installed if it is missing.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "driftwall needs Python 3.11 or later, which $(PYTHON) is not: choose another, as in 'make PYTHON=python3.12'." >&2; \
		exit 1; }
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null; then \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if ! command -v apt-get > /dev/null; then \
			echo "$(PYTHON) cannot make a virtual environment: its module ensurepip is missing. Install it and run make again." >&2; \
			exit 1; \
		fi; \
		as_root=; \
		if [ "$$(id -u)" -ne 0 ]; then as_root=sudo; fi; \
		echo "$(PYTHON) cannot make a virtual environment: installing Debian's package $$package"; \
		log=$$(mktemp); \
		{ $$as_root apt-get update && \
			$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$$package"; \
		} > "$$log" 2>&1 || { cat "$$log" >&2; rm -f "$$log"; \
			echo "Installing $$package failed (above): install it by hand and run make again." >&2; exit 1; }; \
		rm -f "$$log"; \
	fi
	@$(PYTHON) -m venv --clear $(VENV)

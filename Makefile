# Two commands do it all: `make run` and `make test`. Both set up .venv first; `make help` lists the others.
# Needs Python 3.11 or newer, git and make, on Linux or macOS. Another Python: make run PYTHON=python3.12
PYTHON ?= python3
PORT ?= 5000
TESTS ?= tests

BIN := $(CURDIR)/.venv/bin
SETUP := .venv/set-up
# Pinned apart from requirements.lock, because it is what installs the lock.
UV := uv==0.13.9

export PATH := $(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true

# The tests run in as many processes as there are cores; in each of them torch gets one.
test check test-all: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help run test check smoke test-all test-containers lint format ui lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(SETUP) ## data -> train -> evaluate -> export -> promote, for every entry of params.yaml; then a table of what came out
	@dvc repro
	@limner summary

test: $(SETUP) lint ## everything that CI checks: lint, types, layers and the tests
	@python -m pytest -m "not slow and not containers" -n logical --maxprocesses 4 --dist loadscope $(TESTS)

check: $(SETUP) lint ## the fast part of `make test`, under a minute
	@python -m pytest -m "not slow and not pipeline and not containers" -n logical --maxprocesses 4 --dist loadscope -q $(TESTS)

smoke: $(SETUP) ## the five steps on tiny data, in a temporary folder: no network, no services
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && \
	  params="--params $(CURDIR)/tests/tiny.yaml" && \
	  limner prepare tiny $$params && limner train tiny-gan $$params --no-track && \
	  limner evaluate tiny-gan $$params --no-track && limner export tiny-gan $$params --no-track && \
	  limner promote tiny-gan $$params --no-track && limner summary $$params

test-all: $(SETUP) lint ## `make test` and the tests that take minutes
	@python -m pytest -m "not containers" -n logical --maxprocesses 4 --dist loadscope $(TESTS)

test-containers: $(SETUP) ## build the image and run the pipeline in it: an engine (or root and dockerd), 25 GB, minutes
	@OMP_NUM_THREADS=1 python -m pytest -m containers -q -s tests/containers

lint: $(SETUP) ## ruff, mypy and the layer contracts
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports --no-cache

format: $(SETUP) ## let ruff put imports, quotes and line ends right
	@ruff check --fix-only --quiet .
	@ruff format .

ui: $(SETUP) ## look at this folder's runs and registry in a browser (PORT=5000)
	@echo "MLflow: http://127.0.0.1:$(PORT)/#/experiments/1/runs?workflowType=machine_learning   (stop with Ctrl-C)"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --backend-store-uri sqlite:///mlflow.db --host 127.0.0.1 --port $(PORT) --workers 1

lock: $(SETUP) ## resolve requirements.lock anew from pyproject.toml
	@uv pip compile --universal --python-version 3.11 --extra pipeline --extra dev \
	  --upgrade --no-header --no-annotate --quiet --output-file requirements.lock pyproject.toml

clean: ## remove the tools' caches and plots; never data, models, runs or .venv
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dvc_plots local_outputs
	@find src tests components pipelines -name __pycache__ -type d -prune -exec rm -rf {} +

# uv installs in a minute what takes pip several. It does not read pip's configuration, so the package index set there (a
# company's mirror) is handed over, and it is told to trust the certificates of the system, as behind a proxy they
# must be. Where it still does not get through, pip does the same work more slowly.
$(SETUP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Install Python 3.11 or newer, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Limner needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	@echo "Setting up .venv (about 6 GB the first time, most of it PyTorch) ..."
	@test -x "$(BIN)/python" || $(PYTHON) -m venv --clear .venv || { rm -rf .venv; exit 1; }
	@python -m pip install --quiet --disable-pip-version-check $(UV) || true
	@index="$${UV_DEFAULT_INDEX:-$${PIP_INDEX_URL:-$$(python -m pip config get global.index-url 2>/dev/null)}}"; \
	  UV_SYSTEM_CERTS=1 UV_HTTP_TIMEOUT="$${UV_HTTP_TIMEOUT:-300}" \
	  uv pip install --quiet --python "$(BIN)/python" --compile-bytecode $${index:+--default-index "$$index"} \
	    --no-deps -r requirements.lock -e . \
	  || { echo "uv did not get through: pip does it now, which takes some minutes ..."; \
	       python -m pip install --disable-pip-version-check --no-deps -r requirements.lock -e .; }
	@touch $@

# Everything starts here. Each target makes the pinned environment in .venv by itself when it is
# missing or older than what it was made from.

PYTHON ?= python3
PORT ?= 3000
ARGS ?=

# More test workers than cores: much of a test is waiting for a server or a process.
WORKERS ?= 3
HISTORIES ?= 300
LAW ?= 1000
REACH ?= $(LAW)
DAMAGES ?= 200
CATALOGS ?= 40
ROUNDS ?= 200

BIN := .venv/bin
CHROMIUM := /usr/bin/chromium

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The packages in .venv were installed without bytecode (see .venv/.stamp); what imports one first leaves it
# there. Where the shell forbids that, each command compiles all that it imports: 3 s instead of 1.5.
export PYTHONDONTWRITEBYTECODE :=
# Where Dagster looks for its dagster.yaml and keeps its own logs. `etl` arranges the same by itself, the
# tests make their own.
verify-definitions: export DAGSTER_HOME := $(CURDIR)/data/dagster

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-cloud ui test test-places test-slow test-histories test-law test-init test-damage test-writers test-mutations test-servers test-image test-soak test-browser lint format verify-definitions bench screenshots pins clean

help: ## this list
	@echo "make <target>, with PYTHON=$(PYTHON) PORT=$(PORT) ARGS='…' where they apply"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | while IFS='|' read -r name text; do \
	    printf '%-22s %s\n' "$$name" "$$text"; done

demo: .venv/.stamp ## from an embedded PostgreSQL to a proven star schema, in one go
	@$(BIN)/etl demo $(ARGS)

demo-cloud: .venv/.stamp ## the demo with S3, BigQuery and Google Sheets, all played by stand-ins: no account
	@$(BIN)/etl demo-cloud $(ARGS)

ui: .venv/.stamp ## Dagster's web interface on http://127.0.0.1:PORT
	@$(BIN)/etl ui --port $(PORT) $(ARGS)

test: .venv/.stamp ## the tests (ARGS="--cov" adds coverage, ARGS="-k name" selects)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-places: .venv/.stamp ## the tests of what stands elsewhere: stores, warehouses, Sheets, APIs, steps, the interface, deployments
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "places and not slow" $(ARGS)

test-slow: .venv/.stamp ## the slow tests, and all cases of which the others take some
	@$(BIN)/python -m pytest -m slow $(ARGS)
	@ETL_CASES=all $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m many $(ARGS)
	@$(MAKE) --no-print-directory test-histories HISTORIES=1000

test-histories: .venv/.stamp ## HISTORIES random histories of transactions, each captured exactly
	@ETL_HISTORIES=$(HISTORIES) $(BIN)/python -m pytest etl_assets_tests/capture/test_random_histories.py

test-law: .venv/.stamp ## LAW random models with their histories: the star is what its functions give
	@ETL_LAW=$(LAW) ETL_LAW_REACH=$(REACH) $(BIN)/python -m pytest -n $(WORKERS) -m "" \
	    etl_assets_tests/law/test_mistakes.py etl_assets_tests/law/test_law.py etl_assets_tests/law/test_reach.py $(ARGS)

test-init: .venv/.stamp ## databases that nobody declared: etl init, a run, changes, another run, verified
	@ETL_CATALOGS=$(CATALOGS) $(BIN)/python -m pytest -n $(WORKERS) -m init etl_assets_tests/init $(ARGS)

test-damage: .venv/.stamp ## full disks, and DAMAGES random damages to what is kept: nothing wrong is shown, all can be mended
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m damage etl_assets_tests/test_full_disk.py \
	    etl_assets_tests/test_history_damage.py $(ARGS)
	@ETL_DAMAGES=$(DAMAGES) $(BIN)/python -m pytest -s -o timeout=14400 --show-capture=no -m damage \
	    etl_assets_tests/test_damage.py $(ARGS)

test-writers: .venv/.stamp ## ROUNDS times eight writers at once, suspended anywhere: one wins, and the lakes are right
	@ETL_WRITERS=$(ROUNDS) $(BIN)/python -m pytest -s -o timeout=14400 --show-capture=no -m "" etl_assets_tests/test_writers.py $(ARGS)

test-mutations: .venv/.stamp ## mistakes put into the code, each of which a test must find; ARGS="F5 F14" for some rows
	@$(BIN)/python -m etl_assets_tests.mutations $(ARGS)

test-servers: .venv/.stamp ## PostgreSQL 13 to 18, each by the main job's acceptance (needs npm, which has their programs); ARGS="13 17"
	@$(BIN)/python -m etl_assets_tests.postgres_versions $(ARGS)

test-image: ## build the image and run the flow in it, read-only, as its ordinary user (needs root, buildah, debootstrap)
	@deploy/test-image.sh $(ARGS)

test-soak: .venv/.stamp ## two machines, and a real daemon, while all goes wrong that may; MINUTES=10 for so long each
ifdef MINUTES
	@$(BIN)/python -m etl_assets_tests.soak --minutes $(MINUTES) $(ARGS)
	@$(BIN)/python -m etl_assets_tests.automation.soak --minutes $(MINUTES)
else
	@$(BIN)/python -m pytest -m soak $(ARGS)
endif

test-browser: .venv/.stamp-browser ## the tests of the web interface, in Chromium
	@test -x $(CHROMIUM) || { echo "test-browser needs $(CHROMIUM): install it, e.g. apt-get install chromium" >&2; exit 1; }
	@$(BIN)/python -m pytest -m browser $(ARGS)

lint: .venv/.stamp ## ruff, mypy, which room may use which, who says nothing of itself, and names that two rooms have
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "not formatted: run make format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m etl_assets_tests.arrows
	@$(BIN)/python -m etl_assets_tests.docstrings
	@$(BIN)/python -m etl_assets_tests.class_names

format: .venv/.stamp ## format the code, repair what ruff can
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

verify-definitions: .venv/.stamp data/dagster/dagster.yaml ## load all definitions as a deployment would
	@$(BIN)/dg check defs

screenshots: .venv/.stamp-browser ## make the pictures in docs/images again
	@$(BIN)/python -m docs.screenshots

bench: .venv/.stamp ## the benchmarks; ARGS="peers" has other tools on the same source beside it
	@$(BIN)/python -m benchmarks $(ARGS)

# The newest versions that pyproject.toml allows, into constraints.txt. Resolve with the oldest Python
# supported, since the newest versions for a newer one may not exist for it.
pins: ## refresh constraints.txt
	@$(call check_python)
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT \
	&& "$(PYTHON)" -m venv "$$tmp/venv" \
	&& "$$tmp/venv/bin/pip" install -qq -e '.[dev,browser]' \
	&& { echo '# Every distribution that the package and its extras need, at the version tested.'; \
	     echo '# Refreshed by `make pins` from the ranges in pyproject.toml; not edited by hand.'; \
	     "$$tmp/venv/bin/pip" freeze --exclude-editable; } > "$$tmp/constraints.txt" \
	&& cp "$$tmp/constraints.txt" constraints.txt

clean: ## remove .venv, caches and builds; data/ stays
	@rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

# Not compiled: of 19,000 modules most are never imported, and Python compiles one when it is.
.venv/.stamp: pyproject.toml constraints.txt
	@$(call check_python)
	@echo "preparing .venv" >&2
	@"$(PYTHON)" -m venv --clear .venv
	@$(BIN)/python -m pip install -qq --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

.venv/.stamp-browser: .venv/.stamp
	@$(BIN)/python -m pip install -qq --no-compile -c constraints.txt -e '.[dev,browser]'
	@touch $@

data/dagster/dagster.yaml:
	@mkdir -p data/dagster
	@ln -sfn ../../dagster.yaml $@

define check_python
"$(PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
    echo "etl-assets needs Python 3.11 or newer with the venv module: install it (e.g. apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
endef

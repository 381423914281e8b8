# make install   a virtual environment in .venv with the tested versions; only Python 3.10-3.13 and pip are needed
# make demo      the whole pipeline on simulated recordings, on the embedded server
# make test      every test, on the embedded server and, where one is named or runs, on MySQL
# make test-fast the quick ones, which need no server (below two minutes)
# make lint      ruff and mypy
# make clean     remove the environment and what the tools left

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-fast test-embedded test-mysql test-models test-others lint clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 14))' || \
		{ echo "Geniculate needs Python 3.10 to 3.13, $(PYTHON) is $$($(PYTHON) --version 2>&1): make install PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "This Python cannot make virtual environments: install its venv package (Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/geniculate demo

# The tests are four groups that share nothing, as many at a time as there are cores (JOBS=1: one after the other). Each
# line says whose it is. A test belongs to test-others unless something says otherwise, so none is left out.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
SIDE_BY_SIDE := --no-print-directory --keep-going --jobs=$(JOBS)
SHELL := bash
# Without pipefail only the loop's exit status would count, and .SHELLFLAGS is not known to make 3.81.
PYTEST := set -o pipefail; PYTHONUNBUFFERED=1 $(BIN)/python -m pytest -rs
NAMED = 2>&1 | while IFS= read -r line; do printf '%-8s| %s\n' '$(@:test-%=%)' "$$line"; done
MODELS := tests/benchmarks tests/pipeline/models tests/pipeline/training
MARKED := not database and not embedded

test: $(STAMP)
	@$(MAKE) $(SIDE_BY_SIDE) test-embedded test-mysql test-models test-others

test-fast: $(STAMP)
	@$(MAKE) $(SIDE_BY_SIDE) test-models test-others MARKED="not slow and $(MARKED)"

test-embedded: $(STAMP)
	@unset GENICULATE_TEST_MYSQL; $(PYTEST) -m "database or embedded" $(NAMED)

test-mysql: $(STAMP)
	@server="$${GENICULATE_TEST_MYSQL:-$$(tools/mysql.sh url 2>/dev/null)}"; \
	if [ -n "$$server" ]; then \
		echo "The database tests again, on MySQL"; \
		export GENICULATE_TEST_MYSQL="$$server"; $(PYTEST) -m database $(NAMED); \
	else \
		echo "No MySQL: its tests were left out (tools/mysql.sh start, or name one in GENICULATE_TEST_MYSQL)"; \
	fi

test-models: $(STAMP)
	@unset GENICULATE_TEST_MYSQL; $(PYTEST) -m "$(MARKED)" $(MODELS) $(NAMED)

test-others: $(STAMP)
	@unset GENICULATE_TEST_MYSQL; $(PYTEST) -m "$(MARKED)" $(MODELS:%=--ignore=%) $(NAMED)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

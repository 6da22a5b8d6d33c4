# Two commands do everything on a fresh machine with make and Python 3.11 (or uv): `make demo`, `make test`.

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
# The interpreter that makes .venv: never one that lies in it.
PYTHON ?= $(shell PATH="$$(printf %s "$$PATH" | tr ':' '\n' | grep -vxF '$(BIN)' | paste -sd: -)"; \
  command -v python3.11 2>/dev/null || command -v python3 2>/dev/null)
IS_311 = '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null
# A virtual environment with pip. uv finds or downloads Python 3.11 where PYTHON is another.
new_venv = if $(IS_311); then '$(PYTHON)' -m venv $(1); else uv venv --quiet --seed --python 3.11 $(1); fi
# Named after what the lock holds, so that dates of files do not matter.
READY := $(VENV)/installed-$(shell cksum < requirements.lock | cut -d' ' -f1)
MODEL ?= nbeats
ONLY ?=
# Your own data set, as in `make demo DATA=mystocks`; empty: the built-in one.
DATA ?=
# Sessions that `make nightly` catches up, at most.
SESSIONS ?= 60
# Two test processes; a file's tests stay in one of them, with its fixtures. The README's, the longest, begin at once.
TWO := -n 2 --dist loadscope --no-loadscope-reorder

# `mlflow models serve` and `mlflow run --env-manager local` start uvicorn and python by name.
export PATH := $(BIN):$(PATH)
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo nightly serve ui check test test-processors test-weights test-system readme readme-kronos readme-models readme-calibration readme-errors readme-slow bench lock clean

help:
	@echo 'make demo         the main job on real prices: compile, train, promote, serve, ask (about 2 minutes);'
	@echo '                  DATA=mystocks: the same on your own data set'
	@echo 'make nightly      issue, mature, calibrate, standings for what is in Production (a minute after make demo);'
	@echo '                  SESSIONS=60: catch up at most these; DATA=mystocks: only this data set'
	@echo 'make test         every check: format, lint, types, layers, tests'
	@echo 'make check        format, lint, types, layers'
	@echo 'make test-processors  unit and contract tests as on other x86-64 processors (about 10 minutes)'
	@echo 'make serve        the gateway on the Production version of MODEL=nbeats; MODEL="nbeats har" for several'
	@echo 'make ui           the MLflow UI on what is in var/'
	@echo 'make bench        benchmarks; ONLY=forecast for one of them'
	@echo 'make readme       remake the table, reply and picture of make demo in README.md'
	@echo 'make readme-kronos remake the Kronos table and picture of mlprojects/README.md (trains kronos: minutes)'
	@echo 'make readme-models remake the table of all models and the eight of README.md (trains each twice: an hour on 2 cores)'
	@echo 'make readme-calibration remake the tables of calibrations of jobs/README.md (half an hour on 2 cores)'
	@echo 'make readme-errors remake the table of errors of serving/README.md'
	@echo 'make readme-slow  the commands of all READMEs that take minutes'
	@echo 'make test-weights official Kronos weights, where you have them: KRONOS_WEIGHTS=DIR (see tests/weights)'
	@echo 'make test-system  compose on a real Docker engine, and a browser: Debian and root (10 to 25 minutes; 77: cannot run here)'
	@echo 'make setup        only create .venv from requirements.lock'
	@echo 'make lock         resolve requirements.in anew into requirements.lock, requirements-inference.lock and conda.yaml'
	@echo 'make clean        remove .venv and caches; var/ (your models) is kept'

setup: $(READY)

$(READY):
	@$(IS_311) || command -v uv > /dev/null || { echo "error: Python 3.11 is needed, found $$('$(PYTHON)' --version 2> /dev/null || echo none); \
	install python3.11 (if it is not on PATH, set PYTHON=/path/to/python3.11), or install uv, which brings it: https://docs.astral.sh/uv" >&2; exit 1; }
	@echo 'installing requirements.lock into $(VENV) (a few minutes, once)' >&2
	@rm -rf $(VENV)
	@$(call new_venv,$(VENV))
	@$(VENV)/bin/python -m pip install --disable-pip-version-check --progress-bar on -q -r requirements.lock
	@touch $@

demo: setup
	@$(BIN)/python -m jobs quickstart$(if $(DATA), --data '$(DATA)')

nightly: setup
	@$(BIN)/python -m jobs nightly --sessions '$(SESSIONS)'$(if $(DATA), --data '$(DATA)')

# Ends with the shell of its recipe, which is all that make passes SIGTERM to.
ATTACHED = $(BIN)/python registry/attached.py $$$$ $(BIN)/python

# Ctrl-C is how these two are meant to end: the shell waits for the server, and 130 is no error.
serve: setup
	@trap : INT; $(ATTACHED) -m serving start $(MODEL) || test $$? -eq 130

ui: setup
	@trap : INT; $(ATTACHED) -m registry ui || test $$? -eq 130

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest $(TWO) -m "not slow" tests/e2e tests/unit tests/contract tests/integration

test-processors: setup
	@$(BIN)/python tests/processors.py

test-weights: setup
	@test -d '$(KRONOS_WEIGHTS)' || { echo 'error: set KRONOS_WEIGHTS to a folder of official files; tests/weights says which' >&2; exit 2; }
	$(BIN)/pytest tests/weights

test-system: setup
	@$(BIN)/python tests/system/run.py

readme: setup
	@$(BIN)/python -m jobs quickstart | PYTHONPATH=. $(BIN)/python .readme/remake.py

readme-kronos: setup
	@for model in kronos_simulated kronos; do $(BIN)/python -m jobs train $$model --reuse > /dev/null \
	  && $(BIN)/python -m registry promote $$model latest --why 'README' > /dev/null \
	  && $(BIN)/python -m jobs evaluate $$model --report_every 5 || exit 1; done > var/kronos.jsonl
	@PYTHONPATH=. $(BIN)/python .readme/remake.py < var/kronos.jsonl

# Every model of the panel: fitted to 2013 and to 2018, chosen on the year after, reported on the three or four after that.
PANEL_MODELS := naive ewma fhs har garch gjr linear mlp lightgbm ensemble nbeats nhits patchtst itransformer stemgnn tft \
  graph ssm
SECOND := --fit_until 2013-12-31 --choose_until 2014-12-31 --report_until 2018-12-31

readme-models: setup
	@for model in $(PANEL_MODELS); do \
	  $(BIN)/python -m jobs train $$model --reuse $(SECOND) && $(BIN)/python -m jobs train $$model --reuse || exit 1; \
	  done > var/models.jsonl
	@PYTHONPATH=. $(BIN)/python .readme/remake.py < var/models.jsonl
	@tail -n 1 var/models.jsonl

# In a folder of its own, so that no version or calibration of yours is touched. A run that was cut goes on.
readme-calibration: setup
	@PYTHONPATH=.:tests/bench $(BIN)/python -P tests/bench/calibration.py var/readme-calibration fhs har ensemble \
	  > var/calibration.jsonl
	@PYTHONPATH=. $(BIN)/python .readme/remake.py < var/calibration.jsonl

readme-errors: setup
	@PYTHONPATH=. $(BIN)/python .readme/remake.py --errors

readme-slow: setup
	$(BIN)/pytest tests/e2e/test_readme.py -m slow

bench: setup
	@for file in tests/bench/$(or $(ONLY),*).py; do PYTHONPATH=.:tests/reference:tests/fakes:tests/bench $(BIN)/python -P $$file || exit 1; done

# Pins of what is installed in var/lock.
FROZEN = var/lock/bin/python -m pip freeze | sed -E '/^(nvidia-|cuda-|triton)/d; s/\+[a-z0-9.]+$$//'
LOCKED = var/lock/bin/python -m pip install --disable-pip-version-check -q

lock:
	@$(call new_venv,var/lock)
	@$(LOCKED) -r requirements.in
	@$(FROZEN) > requirements.lock
	@{ printf 'name: kronos-registry\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n'; \
	   sed 's/^/      - /' requirements.lock; } > conda.yaml
	@$(call new_venv,var/lock)
	@$(LOCKED) -r requirements-inference.in -c requirements.lock
	@$(FROZEN) > requirements-inference.lock
	@rm -rf var/lock

clean:
	rm -rf $(VENV) reports .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find registry mlprojects serving jobs tests -name __pycache__ -prune -exec rm -rf {} +
	@echo 'kept: var/ (data, runs, registered models)'

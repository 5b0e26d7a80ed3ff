# make demo | install | test | check | recording | clean
#
# Everything goes into .venv in this folder; nothing else on the machine is touched. The second time
# nothing is installed: a stamp says that the virtual environment is as new as the files it came from.

PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/installed
DEV := .venv/installed-dev
SOURCES := requirements.txt pyproject.toml setup.py
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet

# Looked at only when .venv has to be made: empty if a tool is missing or Python is too old.
READY = $(shell command -v git >/dev/null && \
	$(PYTHON) -c 'import sys, venv, ensurepip; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)
NEEDED = this needs Python 3.11 or newer with venv, and git; on Debian or Ubuntu: \
	sudo apt-get install git make python3 python3-venv

.PHONY: demo install test check recording clean

demo: $(RUNTIME)
	@$(BIN)/gossip demo

install: $(RUNTIME)

test: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -p seconds_by_group

check: $(DEV)
	$(BIN)/python -m pytest -p seconds_by_group -rs -m "slow or root"

recording: $(RUNTIME)
	rm -rf build/recording
	$(BIN)/gossip demo --run-dir build/recording
	$(BIN)/python analysis/record.py build/recording docs/demo.svg

# Runs stay: they are yours.
clean:
	rm -rf .venv build dist *.egg-info gossip/_datasets .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUNTIME): $(SOURCES) | $(BIN)/pip
	@echo "installing into .venv (about 350 MB, once) ..."
	@$(PIP) --editable .
	@touch $@

$(DEV): $(SOURCES) | $(BIN)/pip
	@echo "installing with the tools for tests into .venv (about 450 MB, once) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ $(RUNTIME)

# pip comes last, so a virtual environment cut short is made again.
$(BIN)/pip:
	$(if $(READY),,$(error $(NEEDED)))
	@$(PYTHON) -m venv .venv

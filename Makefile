# The targets that people and CI use. `make dev` first; everything happens in .venv and build/.
SHELL := /bin/sh
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/dev
DEV_TOOLS := meson ninja meson-python cffi jsonschema pyroute2 pytest ruff mypy types-cffi types-jsonschema

.PHONY: dev lint test test-all demo bench clean

$(BIN)/.ready:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(DEV_TOOLS)
	touch $@

$(BUILD)/build.ninja: | $(BIN)/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/meson setup $(BUILD) -Darchive=false >/dev/null

# Builds the native parts into the source tree, where `python -m ocirt` finds them. What does
# compile is put in place although something else does not: they are independent of each other.
dev: $(BUILD)/build.ninja
	@exec 9>build/.lock; flock 9; PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	ninja -C $(BUILD) reconfigure >/dev/null && ninja -C $(BUILD) -k 0; status=$$?; \
	$(BIN)/python csrc/place.py $(BUILD) && exit $$status

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	rm -f ocirt/*.so ocirt/ocirt-init ocirt/lib.marshal ocirt/spec/_compiled.py
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

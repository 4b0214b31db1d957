# The targets that people and CI use. Each installs what it needs; everything is made in .venv and
# build/, and native parts in ocirt/ (git ignores them).
SHELL := /bin/sh
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/dev
PRODUCT := build/product
PIP_QUIET := -qq --disable-pip-version-check
DEV_TOOLS := meson ninja meson-python cffi jsonschema pyroute2 zstandard isal setuptools wheel pytest hypothesis \
	ruff mypy types-cffi types-jsonschema
PYTEST_ARGS ?=

.PHONY: dev product lint test test-all demo bench bench-images clean

$(BIN)/.ready: Makefile oci-image/pyproject.toml
	tests/install-deps build
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_QUIET) $(DEV_TOOLS)
	$(BIN)/pip install $(PIP_QUIET) --no-build-isolation --no-deps -e oci-image
	touch $@

$(BUILD)/build.ninja: | $(BIN)/.ready
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/meson setup $(BUILD) -Darchive=false >/dev/null

# Builds the native parts into the source tree, where `python -m ocirt` finds them. What does
# compile is put in place although something else does not: they are independent of each other.
dev: $(BUILD)/build.ninja
	@exec 9>build/.lock; flock 9; PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	ninja -C $(BUILD) reconfigure >/dev/null && ninja -C $(BUILD) -k 0; status=$$?; \
	$(BIN)/python csrc/place.py $(BUILD) && exit $$status

# What a user gets from `pip install .`, in a venv of its own: tests and benchmarks run this one.
product: $(BIN)/.ready
	@mkdir -p build; exec 9>build/.product.lock; flock 9; PATH="$(CURDIR)/$(BIN):$$PATH"; export PATH; \
	test -x $(PRODUCT)/bin/pip || $(PYTHON) -m venv $(PRODUCT) || exit 1; \
	rm -rf build/wheel; pip wheel $(PIP_QUIET) --no-build-isolation --no-deps -w build/wheel --config-settings=build-dir=build/wheel-build . && \
	pip wheel $(PIP_QUIET) --no-build-isolation --no-deps -w build/wheel ./oci-image && \
	$(PRODUCT)/bin/pip install $(PIP_QUIET) cffi jsonschema pyroute2 zstandard isal && \
	$(PRODUCT)/bin/pip install $(PIP_QUIET) --force-reinstall --no-deps build/wheel/ocirt-*.whl build/wheel/oci_image-*.whl

# The linters run as tests too (tests/unit/test_house.py).
lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	clang-format --dry-run -Werror csrc/*/*.[ch] tests/*/*.c

test: dev product
	tests/install-deps test
	OCIRT=$(CURDIR)/$(PRODUCT)/bin/ocirt OCI_IMAGE=$(CURDIR)/$(PRODUCT)/bin/oci-image $(BIN)/python -m pytest $(PYTEST_ARGS)

# Adds what is long, and writes docs/last-full-run.json.
test-all: dev product
	tests/install-deps test
	OCIRT=$(CURDIR)/$(PRODUCT)/bin/ocirt OCI_IMAGE=$(CURDIR)/$(PRODUCT)/bin/oci-image $(BIN)/python tests/full_run.py $(PYTEST_ARGS)

demo: dev product
	tests/install-deps demo
	OCIRT=$(CURDIR)/$(PRODUCT)/bin/ocirt OCI_IMAGE=$(CURDIR)/$(PRODUCT)/bin/oci-image tests/demo.sh

bench: dev product
	tests/install-deps test
	OCIRT=$(CURDIR)/$(PRODUCT)/bin/ocirt OCI_IMAGE=$(CURDIR)/$(PRODUCT)/bin/oci-image $(BIN)/python bench/bench.py $(BENCH_ARGS)

# Unpacking, compared with umoci, skopeo, podman and the shell.
bench-images: dev product
	tests/install-deps test
	OCI_IMAGE=$(CURDIR)/$(PRODUCT)/bin/oci-image $(BIN)/python bench/unpack.py $(BENCH_ARGS)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache
	rm -f ocirt/*.so ocirt/ocirt-init ocirt/_commit.py ocirt/spec/_compiled.py
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

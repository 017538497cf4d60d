# Every target makes .venv on first use and installs what it lacks.
# PYTHON=python3.12 picks the interpreter; CONSTRAINTS= lifts the tested pins.

PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
INSTALLED := .venv/.installed
SOURCES := edgeadapt train export bench scripts tests

.PHONY: help demo test test-slow lint format bench bench-kernels bench-ratchet evidence wheels kernels-check clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt
	PYTHON=$(PYTHON) CONSTRAINTS=$(CONSTRAINTS) scripts/make-venv .venv -e '.[all,dev]'
	@scripts/build-kernels
	@touch $@

demo: $(INSTALLED)  ## train two tasks, export, ask, measure: the whole road on a real small model
	@$(BIN)/python scripts/demo.py

test: $(INSTALLED)  ## unit tests and one walk of the whole road
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m 'not slow'

test-slow: $(INSTALLED)  ## the long campaigns
	@$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)  ## ruff, mypy, clang-format
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cc' '*.h')

format: $(INSTALLED)  ## put the sources into the shape that lint wants
	@$(BIN)/ruff check --fix --quiet $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)
	@$(BIN)/clang-format -i $$(git ls-files '*.cc' '*.h')

bench: $(INSTALLED) demo/bundle/edgeadapt.json  ## measure the demo's bundle beside its baselines
	@$(BIN)/edgeadapt bench demo/bundle --json demo/bench.json --html demo/bench.html

demo/bundle/edgeadapt.json:
	@$(MAKE) demo

bench-kernels: $(INSTALLED)  ## count instructions on an emulated Cortex-A72: stock, ours, llama.cpp (half an hour)
	@scripts/build-kernels --target aarch64
	@$(BIN)/python scripts/kernel_counts.py

bench-ratchet: $(INSTALLED)  ## fail if a count on an emulated Cortex-A72 moved by more than 2 % since bench/ratchet.json
	@scripts/build-kernels --target aarch64
	@$(BIN)/python scripts/bench_ratchet.py

evidence: $(INSTALLED)  ## tables of docs/evidence.md from the stored runs; MINUTES=60 first runs what is missing
	@$(BIN)/python -m edgeadapt_train.evidence $(if $(MINUTES),--minutes $(MINUTES),--report)

wheels: $(INSTALLED)  ## the distributable wheels, for this machine and for a Raspberry Pi, in dist/
	@$(BIN)/python scripts/build_wheel.py

kernels-check: $(INSTALLED)  ## the kernels under sanitizers, a short fuzz, and what the Arm build is made of
	@scripts/build-kernels --check
	@$(BIN)/python -m pytest -q tests/contract/test_cross_build.py
	@scripts/fuzz-kernels || test $$? = 3  # 3: not here; it has said what is missing
	@scripts/fuzz-kernels --aarch64 || test $$? = 3

clean:  ## remove what was built, but not .venv
	rm -rf build dist demo .pytest_cache .mypy_cache .ruff_cache

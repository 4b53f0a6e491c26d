# make help lists every target. Each target sets up what it needs: python3 >= 3.11, pip and make are enough.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
ARGS   ?=
QUICK  ?=

.DEFAULT_GOAL := help
.PHONY: help setup train test test-slow test-faults lint types check test-families test-dense-families cpu-kernels bench bench-accuracy bench-adapters docs test-notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv and install the project with its development tools

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "visionlora needs Python 3.11 or newer; name one with PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

train: $(STAMP) ## fine-tune the offline default; ARGS="lora.r=8 data=imagefolder data.root=DIR" for anything else
	$(BIN)/python -m visionlora.train $(ARGS)

test: $(STAMP) ## run the test suite (the slow ones aside)
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-slow: $(STAMP) ## run the slow tests; VISIONLORA_CIFAR10=DIR names class folders of CIFAR-10
	$(BIN)/python -m pytest -m slow $(ARGS)

test-faults: $(STAMP) ## kill runs, fill disks, damage files, hundreds of times, and count what survives
	$(BIN)/python -m pytest -n 2 -m faults $(ARGS)
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -n 2 tests/test_properties.py

lint: $(STAMP) ## ruff: rules and format; import-linter: which part may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

check: test lint types docs ## what CI runs
	$(MAKE) test-notebooks QUICK=1

test-families: $(STAMP) ## every family of timm and torchvision through the commands: docs/families.md; ARGS="--graphs" with ONNX, "--sides peft --afresh" for PEFT's column
	$(BIN)/python benchmarks/families.py $(ARGS)

test-dense-families: $(STAMP) ## families for boxes and masks through the commands: docs/dense_families.md; ARGS="--graphs" with ONNX
	$(BIN)/python benchmarks/dense_families.py $(ARGS)

cpu-kernels: $(STAMP) ## every linear and conv geometry of these families, forward and backward, in torch's own CPU library
	$(BIN)/python benchmarks/cpu_kernels.py $(ARGS)

bench: $(STAMP) ## time and memory of a step, ours beside PEFT's, and how they grow: docs/speed.md; DATA=DIR adds the time to 84 % of CIFAR-10
	$(BIN)/python benchmarks/step_time.py --peak $(ARGS)
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/cost_rule.py
	$(BIN)/python benchmarks/above_floor.py
	$(if $(DATA),$(BIN)/python benchmarks/time_to_accuracy.py --root $(DATA))
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/speed_page.py

bench-adapters: $(STAMP) ## what injecting, saving, switching and each method cost: docs/costs.md
	$(BIN)/python benchmarks/adapters.py $(ARGS)

bench-accuracy: $(STAMP) ## the CIFAR-10 table of docs/accuracy.md; ARGS="--root DIR [--table methods]", DIR has class folders of CIFAR-10
	$(BIN)/python benchmarks/accuracy.py $(ARGS)

docs: $(STAMP) ## build the documentation, strictly, to build/site
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test-notebooks: $(STAMP) ## run the notebooks; QUICK=1: with a few pictures and steps, to see that they run
	$(if $(QUICK),VISIONLORA_NOTEBOOKS=quick) $(BIN)/python -m pytest -m notebooks $(if $(QUICK),-n 2) $(ARGS)

clean: ## remove the environment and caches, not the runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist

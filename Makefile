# topnine: `make mine LAYER=5` and `make test` are the two commands; `make help` lists the rest.

PYTHON  ?= python3
VENV    ?= .venv
LAYER   ?= 5
CONFIG  ?=
NETWORK ?=
DATA    ?=
WEIGHTS ?=
STORE   ?=
CLUSTER ?=
DEVICE  ?=
ARGS    ?=
SBATCH  ?= --mem=4G

BIN     := $(VENV)/bin
OPTIONS  = --layer "$(LAYER)" $(if $(CONFIG),--config "$(CONFIG)") $(if $(NETWORK),--network "$(NETWORK)") \
	$(if $(DATA),--data "$(DATA)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(STORE),--store "$(STORE)") \
	$(if $(CLUSTER),--cluster "$(CLUSTER)") $(if $(DEVICE),--device "$(DEVICE)") $(ARGS)
PARALLEL := -n logical --maxprocesses 4 --no-loadscope-reorder  # of pytest: a process for each core

.DEFAULT_GOAL := help
.PHONY: help setup mine test test-all fuzz torture families lint bench bench-gpu submit gallery clean

help:  ## list the targets
	@echo 'make TARGET [LAYER=5] [CONFIG=] [NETWORK=] [DATA=] [WEIGHTS=] [STORE=] [CLUSTER=] [DEVICE=] [ARGS=]'
	@sed -n 's/^\([a-z-]*\):.*##/  \1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: $(VENV)/ready  ## make the virtual environment and install

mine: $(VENV)/ready  ## run every stage, to the sheets of LAYER
	$(BIN)/topnine run $(OPTIONS)

gallery: mine  ## the same, and a static site of every layer of the run
	$(BIN)/topnine gallery $(OPTIONS)

submit: $(VENV)/ready  ## the same as mine, as a Slurm job that starts those of CLUSTER
	mkdir -p runs
	sbatch --job-name=topnine --output=runs/topnine-%j.log $(SBATCH) --wrap='exec $(BIN)/topnine run $(OPTIONS)'

test: $(VENV)/ready-test  ## the tests, in minutes
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-all: $(VENV)/ready-test  ## all tests
	$(BIN)/python -m pytest $(PARALLEL)

fuzz: $(VENV)/ready-test  ## 20,000 mutated JPEGs, 10,000 TIFFs and arrays, 2,000 tars
	$(BIN)/python -m tests.fuzz.mutants 20000 2000

torture: $(VENV)/ready-test  ## hours: kills, torn files, power cuts, two owners of a store, failing reads, many times
	TOPNINE_TORTURE=1 $(BIN)/python -m pytest tests/resume/test_damage.py tests/resume/test_power.py \
		tests/resume/test_owners.py tests/resume/test_read_faults.py tests/resume/test_kill.py

families: $(VENV)/ready-test  ## one network of every family of timm
	TIMM_FAMILIES=all $(BIN)/python -m pytest tests/e2e/test_timm.py

lint: $(VENV)/ready-test  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready-test  ## measure against the machine's limits and other tools: runs/bench.json (ROWS="rank feed")
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m tests.benchmarks.bench $(ROWS)

bench-gpu: $(VENV)/ready-test  ## the same with a GPU, in eight minutes: runs/bench-gpu.json
	$(BIN)/python -m tests.benchmarks.gpu

clean:  ## remove the virtual environment and caches, never runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/ready: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/ready-test: $(VENV)/ready
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[analysis,demo,fast,figures,parquet,s3,slurm,test,tiff,timm]'
	touch $@

# Every target makes the virtual environment first (once); `make help` lists them.
PYTHON ?= python3
PROFILE ?= laptop
SEED ?= 0
SEEDS ?= 0-7
JOBS ?= 1
EXPERIMENT ?= online_vs_offline
ARGS ?=
PY := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env tutorial test lint lab doctor sweep bench notebooks clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

env:  ## make .venv with the pinned dependencies (other targets do it for you)
	@$(PYTHON) scripts/setup_env.py

tutorial: env  ## run the whole course headlessly: notebooks, claims and a browsable site under runs/
	@$(PY) -m rlhf_kit run --profile $(PROFILE) --seed $(SEED) $(ARGS)

test:  ## unit tests, and every notebook at the smoke profile, in one process a core (ARGS="-n 0 -k word": some of them, in one)
	@$(PYTHON) scripts/setup_env.py --vllm
	@$(PY) -m pytest -n auto $(ARGS)

lint: env  ## ruff
	@$(PY) -m ruff check .

lab: env  ## open JupyterLab at the first lesson; its file browser reaches runs/ and data/ too
	@$(PY) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(ARGS)

# Status 1 says that a profile does not fit here: an answer, after which make would print an error of its own.
doctor: env  ## what this machine can do, which profile fits, what is missing
	@$(PY) -m rlhf_kit doctor $(ARGS) || [ $$? -eq 1 ]

sweep: env  ## one experiment over many seeds: make sweep EXPERIMENT=online_vs_offline SEEDS=0-7
	@$(PY) -m rlhf_kit sweep --experiment $(EXPERIMENT) --profile $(PROFILE) --seeds $(SEEDS) --jobs $(JOBS) $(ARGS)

bench: env  ## how fast this machine trains and samples the course's models
	@$(PY) -m rlhf_kit doctor --bench --profile $(PROFILE) $(ARGS)

notebooks: env  ## re-execute the notebooks at laptop and store their cleaned outputs in notebooks/
	@$(PY) -m rlhf_kit run --profile laptop --store-outputs $(ARGS)

clean:  ## remove runs/ (the virtual environment stays)
	@rm -rf runs

# Two commands need nothing but Python 3.11 to 3.13 and a C++ compiler:
#   make run     runs the loop on the bundled mini stack      make run ARGS="seed=3 run_dir=/data/run3"
#   make test    runs the tests
# Both first set up .venv where it is missing or older than pyproject.toml. PYTHON=... chooses the interpreter.

SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LAION := .venv-laion
# HF_HUB_OFFLINE=1 in the recipes: tests must not reach a hub.
WITH_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
SUITES := $(wildcard tests/unit tests/ray tests/e2e tests/gpu)
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

.PHONY: help run test test-long test-unit test-laion conformance bench-default bench-sampling bench-corpus chaos soak lint types clean system bench bench-gpu

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## */\t/' | expand -t 12

run: $(STAMP)  ## the loop; ARGS="..." goes to python -m rlloop.main
	@$(WITH_VENV) $(PY) -m rlloop.main $(ARGS)

test: $(STAMP)  ## the tests: those with Ray in one process, in turn, the units in another; ARGS="..." goes to pytest
	@$(WITH_VENV) HF_HUB_OFFLINE=1 $(PY) -m pytest -n 2 -m "not long" $(SUITES) $(ARGS)

test-long: $(STAMP)  ## the Ray tests that take minutes each and are in no other suite: sweeps, elastic trainers, the alarm, a copy, the longer ones of loop, stages, nodes and watchdog
	@$(WITH_VENV) HF_HUB_OFFLINE=1 $(PY) -m pytest -m long tests/ray $(ARGS)

test-unit: $(STAMP)  ## the tests that start no Ray
	@$(WITH_VENV) HF_HUB_OFFLINE=1 $(PY) -m pytest tests/unit $(ARGS)

test-laion: $(LAION)/.installed  ## CLAP against laion-clap itself, in .venv-laion (0.6 GB beside .venv, two minutes)
	@$(WITH_VENV) HF_HUB_OFFLINE=1 LAION_PYTHON=$(LAION)/bin/python $(PY) -m pytest tests/laion -s $(ARGS)

conformance: $(STAMP)  ## golden cases against this implementation, two minutes; ARGS="--only crpo"
	@$(WITH_VENV) $(PY) -m rlloop.conformance tests/golden $(ARGS)

bench: $(STAMP)  ## speed of the loop and its parts into bench/results.md (an hour); ARGS="--only publish selection"
	@$(WITH_VENV) $(PY) -m bench $(ARGS)

bench-gpu: $(STAMP)  ## conformance and speed on one GPU into bench/results_gpu.md (eight minutes at most)
	@$(WITH_VENV) $(PY) -m bench.gpu $(ARGS)

bench-default: $(STAMP)  ## the default run over five seeds into bench/default_run.md (half an hour); ARGS="--seeds 0 1"
	@$(WITH_VENV) $(PY) bench/default_run.py $(ARGS)

bench-sampling: $(STAMP)  ## batch, bfloat16, torch.compile and parts of FluxAudio-S into bench/results.md (20 minutes)
	@$(WITH_VENV) $(PY) -m bench.sampling $(ARGS)

bench-corpus: $(STAMP)  ## memory and speed of streaming 500,000 rows into bench/results.md (ten minutes, 2 GB of disk)
	@$(WITH_VENV) $(PY) -m bench.corpus $(ARGS)

chaos: $(STAMP)  ## kills processes of the loop at random into bench/results.md (200 kills: an hour); ARGS="--kills 20 --seed 1"
	@$(WITH_VENV) HF_HUB_OFFLINE=1 $(PY) -m bench.chaos $(ARGS)

soak: $(STAMP)  ## 20,160 tickets of stand-ins through the real loop: what grows, into bench/results.md; ARGS="--minutes 15"
	@$(WITH_VENV) $(PY) -m bench.soak $(ARGS)

lint: $(STAMP)  ## ruff: errors, imports, format
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

types: $(STAMP)  ## pyright, basic; its first run fetches node
	@$(WITH_VENV) $(PY) -m pyright

clean:  ## removes .venv and caches; runs/ stays
	rm -rf $(VENV) $(LAION) build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system:
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "rlloop: supported is Linux x86_64; this is $$(uname -sm)" >&2; exit 1; }

# The stamp is written last, so an interrupted installation is taken up again. `system` is order-only: it is no reason
# to install anew.
$(STAMP): pyproject.toml | system
	@rm -f $(STAMP)
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
	  for python in $(or $(PYTHON),python3.11 python3.12 python3.13 python3); do \
	    "$$python" -c '$(SUITABLE)' 2>/dev/null && { found="$$python"; break; }; \
	  done; \
	  [ -n "$$found" ] || { echo "rlloop: no Python 3.11 to 3.13 with its venv module among: $(or $(PYTHON),python3.11 python3.12 python3.13 python3); install one (Debian: python3.11 and python3.11-venv) or name it: make PYTHON=/path/to/python" >&2; exit 1; }; \
	  echo "rlloop: creating $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv --clear $(VENV); }
	@echo "rlloop: installing torch, ray, transformers, deepspeed and the rest into $(VENV): about 6.5 GB, 2 to 10 minutes, once"
	@$(PY) -m pip install --disable-pip-version-check --no-input -e '.[dev]'
	@echo "rlloop: installed"
	@touch $(STAMP)

# laion-clap wants numpy 1 and rlloop numpy 2, so it gets an environment of its own, which finds torch and transformers
# in the first one by a .pth file: its own packages come first. The extra is read from pyproject.toml.
$(LAION)/.installed: pyproject.toml $(STAMP)
	@rm -f $@
	@$(PY) -m venv --clear $(LAION)
	@$(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > "$$($(LAION)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/main.pth"
	@$(PY) -c 'import importlib.metadata as m; print(*(f"{p}=={m.version(p)}" for p in ("torch", "transformers")), sep="\n")' > $(LAION)/constraints.txt
	@$(LAION)/bin/python -m pip install --disable-pip-version-check --no-input -q -c $(LAION)/constraints.txt \
	  $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["laion"])')
	@touch $@

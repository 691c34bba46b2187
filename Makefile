# Targets stay few: make help lists them.
VENV := .venv
RUN := $(VENV)/bin/python
UV := .uv/bin/uv
UV_VERSION := 0.13.9
# make setup PYTHON=... names an interpreter. Otherwise it is the newest one on PATH, or of pyenv, that runs (pyenv's
# shims may not) and has all packages; where there is none, uv downloads WITHOUT; where it cannot, OLDEST will do.
WITHOUT := 3.13
OLDEST := 3.11
PYENV = $(foreach v,3.14 3.13 3.12,$${PYENV_ROOT:-$$HOME/.pyenv}/versions/$v*/bin/python)
COMPLETE := import sys; sys.exit(not (3, 12) <= sys.version_info < (3, 15))
FOUND = $(shell for name in python3.14 python3.13 python3.12 python3 $(PYENV); do \
  $$name -c '$(COMPLETE)' 2>/dev/null && command -v $$name && break; done)
PYTHON ?= $(or $(FOUND),$(WITHOUT))
# e.g. make demo TORCH_BACKEND=cpu takes torch's CPU wheels where their index can be reached.
export UV_TORCH_BACKEND := $(TORCH_BACKEND)
ifeq ($(TORCH_BACKEND),)
unexport UV_TORCH_BACKEND
endif
LOCKED = $(UV) pip install --quiet --compile-bytecode --python $(RUN) \
  $(if $(TORCH_BACKEND),--no-verify-hashes,--require-hashes) -r requirements.lock

.DEFAULT_GOAL := help
.PHONY: help setup demo test torture lint lab app lock docs clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/.installed  ## make .venv with everything in it (about 2 minutes, 6.5 GB)

$(UV):
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "python3 has no venv: apt install python3-venv"; exit 1; }
	@python3 -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(RUN): | $(UV)
	@$(UV) venv --quiet --python $(PYTHON) $(VENV) $(if $(filter $(WITHOUT),$(PYTHON)), 2>/dev/null \
	  || { echo "Python $(WITHOUT) cannot be downloaded; $(OLDEST) does without the descriptor sscd-student"; \
	  $(UV) venv --quiet --python $(OLDEST) $(VENV); })

$(VENV)/.installed: requirements.lock pyproject.toml | $(UV) $(RUN)
	@# pdqhash has no wheel for Linux: where it cannot be compiled, it is left out and its tests skip.
	echo pdqhash | $(LOCKED) --excludes -
	@$(LOCKED) 2>/dev/null || echo "pdqhash is left out: it needs a C++ compiler and Python's headers"
	$(UV) pip install --quiet --python $(RUN) --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## run the whole pipeline on the embedded demo corpus
	@$(RUN) -m imgfp run params/demo.yaml

test: setup  ## lint and the documentation, then every test
	@$(MAKE) --no-print-directory -j2 lint docs
	$(RUN) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

torture: demo  ## damage every file of the demo's run and library, kill processes of runs: TIMES=3 RUNS=1
	$(RUN) tests/torture.py runs/demo library/demo --times $(or $(TIMES),3) --runs $(or $(RUNS),1)

lint: setup  ## lint, check formatting, types and spelling
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/codespell README.md CHANGELOG.md CONTRIBUTING.md docs imgfp notebooks params

lab: setup  ## open the notebooks in JupyterLab
	@$(RUN) -m imgfp lab

app: setup  ## serve runs and libraries as pages on this machine
	@$(RUN) -m imgfp app

docs: setup  ## write the site of the documentation, with the API reference, to build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	$(VENV)/bin/pdoc --docformat markdown --output-directory build/site/api imgfp

lock: $(UV)  ## resolve the dependencies of pyproject.toml again, for every supported Python
	$(UV) pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 pyproject.toml \
	  --extra dev --extra lab --extra peers --extra sscd --extra train --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate --no-header -o requirements.lock

clean:  ## delete what runs made (library, runs, data), keep .venv
	rm -rf library runs data

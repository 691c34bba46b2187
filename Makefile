# Targets stay few: make help lists them.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
UV_VERSION := 0.13.9
# e.g. make demo TORCH_BACKEND=cpu takes torch's CPU wheels where their index can be reached.
export UV_TORCH_BACKEND := $(TORCH_BACKEND)
ifeq ($(TORCH_BACKEND),)
unexport UV_TORCH_BACKEND
endif

.DEFAULT_GOAL := help
.PHONY: help setup demo test lab app lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(VENV)/.installed  ## make .venv with everything in it (about 2 minutes, 6.5 GB)

$(VENV)/.installed: requirements.lock pyproject.toml
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) $(if $(TORCH_BACKEND),--no-verify-hashes,--require-hashes) -r requirements.lock
	$(RUN) -m uv pip install --quiet --python $(RUN) --no-deps --editable .
	@touch $@

demo: setup  ## run the whole pipeline on the embedded demo corpus
	@$(RUN) -m imgfp run params/demo.yaml

test: setup  ## lint, then every test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m pytest

lab: setup  ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab --notebook-dir . notebooks/01_images.ipynb

app: setup  ## serve the inspection notebook as a web page on this machine
	$(VENV)/bin/voila notebooks/10_inspect_and_review.ipynb --strip_sources=True

lock:  ## resolve the dependencies of pyproject.toml again
	$(RUN) -m uv pip compile --quiet pyproject.toml --extra cpu --extra dev --extra peers --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header -o requirements.lock

clean:  ## delete what runs made (library, runs, data), keep .venv
	rm -rf library runs data

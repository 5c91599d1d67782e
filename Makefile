# make serve | test | test-long | test-fast | test-hostgpu | test-clients | check | docs | setup | requirements | clean  (docs/installation.md)

HOST   = 127.0.0.1
PORT   = 8000
ARGS   =
PYTHON = python3
DEVICE = auto
HOSTGPU = .venv-hostgpu
CLIENTS = .venv-clients

# PYTHON, if given, replaces a .venv of another version; the default leaves a finished .venv alone.
SETUP = $(PYTHON) -m scripts.setup --device $(DEVICE) $(if $(filter command environment,$(origin PYTHON)),--this-python)
BIN   = .venv/bin
CODE  = $(wildcard bundle sealed server sampling twin conform scripts benchmarks)

.PHONY: help serve test test-long test-fast test-hostgpu test-clients check docs setup requirements clean
help:
	@echo 'make serve         install what is missing, prepare the built-in model, serve on HOST:PORT'
	@echo 'make test          install what is missing and run the tests, in half an hour'
	@echo 'make test-long     the tests that take long, many of them minutes each (tests/README.md)'
	@echo 'make test-fast     the tests that need neither vLLM nor torch, in a minute (tests/README.md)'
	@echo 'make test-hostgpu  vLLM'\''s CUDA build on a simulated GPU, in an environment of its own (9 GB; gcc)'
	@echo 'make test-clients  common clients against the simulator and the real engine: writes docs/clients.md (3 GB; nginx, npm)'
	@echo 'make check         ruff, mypy, hadolint and the layering test'
	@echo 'make docs          the documents as a site, for the server'\''s /docs/ and for bundles'
	@echo 'make setup         only install what is missing and prepare the built-in model'
	@echo 'make requirements  make requirements/*.txt again from pyproject.toml'
	@echo 'make clean         remove .venv, .venv-hostgpu, .venv-clients and what tools leave behind'
	@echo 'Variables: HOST PORT ARGS PYTHON DEVICE=auto|cpu|cuda'

setup:
	@$(SETUP) runtime model

serve: setup
	@exec $(BIN)/verbatim serve --host $(HOST) --port $(PORT) $(ARGS)

test:
	@$(SETUP) runtime dev model
	@$(BIN)/python -m pytest -n 2 $(ARGS)

test-long:
	@$(SETUP) runtime dev model
	@$(BIN)/python -m pytest -n 2 --long -m long $(ARGS)

test-fast:
	@$(SETUP) dev
	@$(BIN)/python -m pytest --fast $(ARGS)

test-hostgpu:
	@echo 'vLLM'\''s CUDA build on a simulated GPU, in $(HOSTGPU): about 4 GB to download and 9 GB on disk the first time'
	@command -v gcc >/dev/null || { echo 'error: gcc is missing; it is needed to compile the simulated GPU'; exit 2; }
	@VERBATIM_VENV=$(HOSTGPU) $(PYTHON) -m scripts.setup --device cuda runtime
	@sh tests/hostgpu/kit/build.sh $(HOSTGPU)
	@$(SETUP) runtime dev model
	@FAKE_GPU=$(CURDIR)/$(HOSTGPU)/fake $(BIN)/python -m pytest tests/hostgpu $(ARGS)

test-clients:
	@$(SETUP) runtime dev model
	@$(BIN)/python -m tests.clients.environments
	@$(BIN)/python -m pytest --clients tests/clients $(ARGS)

check:
	@$(SETUP) dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy $(CODE)
	@$(BIN)/hadolint Dockerfile.cuda deploy/twin/Dockerfile
	@$(BIN)/python -m pytest -q tests/test_layering.py

docs:
	@$(SETUP) dev
	@$(BIN)/python -m scripts.site

requirements:
	@$(PYTHON) -m scripts.requirements

clean:
	rm -rf .venv $(HOSTGPU) $(CLIENTS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

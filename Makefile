# make serve | test | test-fast | test-hostgpu | check | setup | requirements | clean     (docs/installation.md)

HOST   = 127.0.0.1
PORT   = 8000
ARGS   =
PYTHON = python3
DEVICE = auto
FAKE_GPU = $(HOME)/fake-gpu

# A PYTHON that was named makes .venv anew if that has another version; the default leaves a finished .venv alone.
SETUP = $(PYTHON) -m scripts.setup --device $(DEVICE) $(if $(filter command environment,$(origin PYTHON)),--this-python)
BIN   = .venv/bin
CODE  = $(wildcard bundle sealed server sampling scripts benchmarks)

.PHONY: help serve test test-fast test-hostgpu check setup requirements clean
help:
	@echo 'make serve         install what is missing, prepare the built-in model, serve on HOST:PORT'
	@echo 'make test          install what is missing and run every test'
	@echo 'make test-fast     the tests that need neither vLLM nor torch, in a minute (tests/README.md)'
	@echo 'make test-hostgpu  vLLM'\''s CUDA build on a pretended GPU, an environment of its own: FAKE_GPU=DIR'
	@echo 'make check         ruff, mypy, hadolint and the layering test'
	@echo 'make setup         installation and weights alone'
	@echo 'make requirements  make requirements/*.txt anew from pyproject.toml'
	@echo 'make clean         remove .venv and what tools leave behind'
	@echo 'Variables: HOST PORT ARGS PYTHON DEVICE=auto|cpu|cuda'

setup:
	@$(SETUP) runtime model

serve: setup
	@exec $(BIN)/verbatim serve --host $(HOST) --port $(PORT) $(ARGS)

test:
	@$(SETUP) runtime dev model
	@$(BIN)/python -m pytest $(ARGS)

test-fast:
	@$(SETUP) dev
	@$(BIN)/python -m pytest --fast $(ARGS)

test-hostgpu:
	@test -x $(FAKE_GPU)/run || { \
	  echo '$(FAKE_GPU)/run is missing: a command that runs another one with vLLM'\''s CUDA build and libraries that'; \
	  echo 'pretend to be CUDA. make-env.sh DIR of the fake-gpu kit makes it in about 2 minutes and 5 GB; then'; \
	  echo 'make test-hostgpu FAKE_GPU=DIR'; exit 2; }
	@$(SETUP) runtime dev model
	@FAKE_GPU=$(FAKE_GPU) $(BIN)/python -m pytest tests/hostgpu $(ARGS)

check:
	@$(SETUP) dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy $(CODE)
	@$(BIN)/hadolint Dockerfile.cuda
	@$(BIN)/python -m pytest -q tests/test_layering.py

requirements:
	@$(PYTHON) -m scripts.requirements

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

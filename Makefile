# make search: install, then run the main job on the embedded default model. make test: install, then the whole check.
# make vllm: install, then vLLM for CPUs into an environment of its own, in which verify=vllm runs exports.
# make search ARGS=experiment=smoke: the whole way in a few minutes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: search test vllm

search: $(VENV)/installed
	$(BIN)/python run_search.py $(ARGS)
	@echo "before the commands above: . $(BIN)/activate"

test: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist worksteal

vllm: $(VENV)/installed
	$(BIN)/python -m space.formats.vllm.environment

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes first and by its exact version, so that no other package's range pulls in a different build
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

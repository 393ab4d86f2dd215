# Everything a user types. The environment and the models are made once; `make demo` and `make test` need no network after.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
export HF_HUB_OFFLINE = 1
export PYTHONUNBUFFERED = 1
export NO_MKDOCS_2_WARNING = 1

.PHONY: install demo test test-integrations docs lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/skillcompose fetch
	touch $(STAMP)

install: $(STAMP)

demo: install
	$(BIN)/skillcompose train recipes/quickstart.yaml
	$(BIN)/skillcompose ask runs/quickstart "Who maintains the efficient, featureful word processor with collaboration?"
	$(BIN)/skillcompose ask runs/quickstart "Which version does the package that git-ftp depends on have?"
	$(BIN)/skillcompose ask runs/quickstart "Who takes care of the package suggested by quilt?"

test: install
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered --cov-fail-under=85 -q

# Against the real libraries, in an environment of their own.
test-integrations:
	$(MAKE) install VENV=$(VENV)-integrations
	$(VENV)-integrations/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,langchain,qdrant]' openai
	$(VENV)-integrations/bin/python -m pytest -q tests/integrations

# The pages of docs/ as a site in site/.
docs: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	set -e; for folder in $(sort $(dir $(wildcard benchmarks/*.py benchmarks/*/*.py))); do $(BIN)/mypy $$folder*.py; done

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

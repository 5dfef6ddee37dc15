# Every target sets up what it needs: a bare machine with Python 3.10 or newer is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test lint counts bench bench-check lower-bounds brainmarks clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@# torch first and alone: a pinned version keeps pip from choosing a build with CUDA
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,lint,dask]'
	@touch $@

demo: setup
	$(BIN)/fmri-lm demo --out demo_output

test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# How large the package is.
counts:
	@$(PYTHON) tools/counts.py

bench: setup
	$(BIN)/python benchmarks/bench.py

bench-check: setup
	$(BIN)/python benchmarks/bench.py --check

# The lowest versions that pyproject.toml declares, and a part of the tests. Two tests are of libraries: the lowest torch
# cannot compile the backbones of the lowest transformers, which imports scikit-learn by itself.
lower-bounds:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --editable '.[test]'
	.venv-lowest/bin/python -m pytest -k 'not compiles_as_one_graph and not waits_for_no_command' tests/test_cli.py tests/test_cli_scan.py \
		tests/test_cli_wiring.py tests/test_bundled.py tests/test_pipelines.py tests/models tests/descriptors \
		tests/corpus/test_build.py tests/evaluation/test_metrics.py tests/evaluation/test_baselines.py

# An environment of its own: the suite wants other versions of some libraries than constraints.txt has.
brainmarks:
	$(PYTHON) -m venv .venv-brainmarks
	.venv-brainmarks/bin/pip install --quiet $$(grep -o '^torch==[0-9.]*' constraints.txt)
	.venv-brainmarks/bin/pip install --quiet --editable . --editable plugins/brainmarks pytest
	.venv-brainmarks/bin/python -m brainmarks.models.test_models fmri_lm
	.venv-brainmarks/bin/python -m pytest tests/plugins

clean:
	rm -rf $(VENV) .venv-brainmarks .venv-lowest build dist demo_output .pytest_cache .mypy_cache .ruff_cache *.egg-info

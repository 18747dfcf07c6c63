# Everything a user or CI types. `make demo` and `make test` need Python 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-processors image-check install lint docs bench chaos clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "Python 3.11 or 3.12 is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,s3,docs]"
	@touch $@

demo: install
	$(BIN)/denoised-weights run preset=demo

test: install lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m tests.processors --quick

# whether what cluster/Dockerfile installs still goes together: pins may be taken back by their authors
image-check: install
	$(BIN)/python -m pip install --quiet --dry-run -c constraints.txt ".[s3,gs]" "ray[default]" \
	  boto3 google-api-python-client

# the tests of the maths with the kernels of other processors; a few minutes
test-processors: install
	$(BIN)/python -m tests.processors

# the inner loop: what starts neither Ray nor processes
test-fast: install
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint cluster/Dockerfile

# docs/ as a site in site/: broken links, anchors and missing pages are errors
docs: install
	$(BIN)/zensical build --clean --strict
	$(BIN)/python -m pytest tests/docs/test_pages.py

bench: install
	$(BIN)/python -m tests.bench.demo_stages

# kills workers, nodes and drivers at random moments; two hours or more
chaos: install
	$(BIN)/python -m tests.chaos.signals
	$(BIN)/python -m tests.chaos

clean:
	rm -rf $(VENV) runs site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Two commands do everything: `make demo` and `make test`. Both set up .venv first; a
# demo without anything set up before installs only what it needs.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks examples docs

# A folder of data beside the checkout, if there is one, serves in place of downloads.
export OVERPARAM_DATA ?= $(wildcard ../shared/data)

# Quick tests without the lab, for the oldest torch that is allowed.
OLDEST := tests/rule tests/factors tests/layers tests/optim tests/reparam tests/theory \
	tests/sharded tests/test_simple.py tests/test_imbalance.py tests/test_checks.py

.PHONY: demo test test-oldest lint format docs package bench clean

demo: $(or $(wildcard .venv/installed),.venv/lab)  ## run the L4 Ethanol study and write runs/demo/report.html
	$(BIN)/overparam run --name demo --fallback diabetes --overwrite

test: .venv/installed  ## run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest: .venv-oldest/installed  ## the core with the oldest torch allowed, whose weak references warn
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal $(OLDEST) \
		-W "ignore:Deallocating Tensor that still has live PyObject references"

lint: .venv/installed  ## style, format and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: .venv/installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: .venv/installed  ## build the site in docs/_build/html and check its links
	$(BIN)/python -m sphinx -W -q -j 2 -d docs/_build/doctrees docs docs/_build/html
	$(BIN)/python docs/_tools/check_links.py docs/_build/html
	@echo "open docs/_build/html/index.html"

package: .venv/installed  ## build wheel and sdist; try both, the wheel in a clean environment
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/support/check_package.py dist

bench: .venv/installed  ## measure speed; prints tables, asserts nothing
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/rule.py
	$(BIN)/python benchmarks/family.py
	$(BIN)/python benchmarks/reparam.py
	$(BIN)/python benchmarks/optim.py

clean:
	rm -rf .venv .venv-oldest runs dist docs/_build docs/reference/api

.venv-oldest/installed: pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet torch==2.9.0 --editable ".[test]"
	@touch $@

define set_up # an extra
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "overparam needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(1)]"
endef

.venv/lab: pyproject.toml constraints.txt
	$(call set_up,lab)
	@touch $@

.venv/installed: pyproject.toml constraints.txt
	$(call set_up,dev)
# timm lies apart from all else: see tests/support/timm_models.py.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade \
		--target .venv/vision pillow timm torchvision
	@touch $@

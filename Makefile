# Two commands do everything: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks examples

# A folder of data beside the checkout, if there is one, serves in place of downloads.
export OVERPARAM_DATA ?= $(wildcard ../shared/data)

.PHONY: demo test lint format bench clean

demo: .venv/installed  ## run the L4 Ethanol study and write runs/demo/report.html
	$(BIN)/overparam run --name demo --fallback diabetes --overwrite

test: .venv/installed  ## run every test
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/installed  ## style, format and types
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright

format: .venv/installed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: .venv/installed  ## measure speed; prints tables, asserts nothing
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/rule.py
	$(BIN)/python benchmarks/reparam.py
	$(BIN)/python benchmarks/optim.py

clean:
	rm -rf .venv runs

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "overparam needs Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
# timm lies apart from all else: see tests/support/timm_models.py.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps --upgrade \
		--target .venv/vision pillow timm torchvision
	@touch $@

# Everything runs in .venv. The first call creates it; later calls reuse it until the inputs of the build change.
#
#   make demo            poison, train, heal and draw a small run, into runs/demo
#   make test            the tests
#   make exactness       every layer and 2,000 random networks against the loop over groups, into benchmarks/results
#   make faults          the full fault injection: processes killed, disks filled, 100,000 broken files of each kind
#   make smoke           all attacks and methods at toy size, with their reports, into runs/{smoke,exam,text}
#   make lint            ruff and mypy
#   make check-gpu-code  compile the CUDA and Triton kernels for every architecture; needs nvcc, no GPU
#   make bench           benchmarks of the kernels, compared with the reference
#   make clean           remove .venv

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed
BUILD_INPUTS := pyproject.toml CMakeLists.txt $(shell find csrc -type f)

.DEFAULT_GOAL := test
.PHONY: demo test exactness faults smoke lint check-gpu-code bench clean

demo: $(READY)
	$(VENV)/bin/potion-fast demo --out runs/demo --overwrite

test: $(READY)
	$(VENV)/bin/python -m pytest -q -m "not gpu_code"

exactness: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/studies/exactness.py benchmarks/results/exactness

faults: $(READY)
	OMP_NUM_THREADS=1 POTION_FAST_FAULTS=full $(VENV)/bin/python -m pytest -q -rs tests/faults

smoke: $(READY)
	OMP_NUM_THREADS=1 $(VENV)/bin/potion-fast sweep potion/smoke --out runs/smoke --processes 2 --quiet
	$(VENV)/bin/potion-fast report runs/smoke
	OMP_NUM_THREADS=1 $(VENV)/bin/potion-fast sweep exam/smoke --out runs/exam --processes 2 --quiet
	$(VENV)/bin/potion-fast report runs/exam
	OMP_NUM_THREADS=1 $(VENV)/bin/potion-fast sweep text/smoke --out runs/text --processes 2 --quiet
	$(VENV)/bin/potion-fast report runs/text

lint: $(READY)
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy potion_fast kernels

check-gpu-code: $(READY)
	$(VENV)/bin/python -m pytest -q -m gpu_code

bench: $(READY)
	$(VENV)/bin/python -m pytest -q benchmarks --benchmark-only --benchmark-columns=min,median,rounds --benchmark-group-by=group

clean:
	rm -rf $(VENV)

# pip is quiet, but shows errors. The pip of a new venv may be older than the build needs.
$(READY): $(BUILD_INPUTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "potion-fast needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing potion-fast and its dependencies into $(VENV) (a few minutes the first time) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

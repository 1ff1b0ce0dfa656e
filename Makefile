# make demo | test | lint | tiny: each sets up .venv first, which takes a moment the second time.
#
# torch is installed first and by itself: every later range is then satisfied by it. This names no build of torch:
# pip takes a CPU build where it finds one, elsewhere perhaps one with several GB of CUDA packages. To choose, say
#     make test TORCH="torch==2.13.0 --index-url <index of CPU builds>"
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint tiny

demo: $(READY)
	$(BIN)/demask-hf demo

test: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

# Trains the shipped checkpoint again; resumes where it was interrupted.
tiny: $(READY)
	$(BIN)/python -m demask_hf.tiny

$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -e ".[dev]" -c constraints.txt
	touch $@

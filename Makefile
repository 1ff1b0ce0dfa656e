# make demo | test | lint | versions | tiny | reactions | antibodies | code-model | gpu: all but versions set up .venv
# first, which takes a moment the second time.
#
# torch is installed first and by itself: every later range is then satisfied by it. This names no build of torch:
# pip takes a CPU build where it finds one, elsewhere perhaps one with several GB of CUDA packages. To choose, say
#     make test TORCH="torch==2.13.0 --index-url <index of CPU builds>"
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint versions tiny reactions antibodies code-model gpu

demo: $(READY)
	$(BIN)/demask-hf demo

test: $(READY)
	$(BIN)/python -m pytest

# Style and types.
lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The core of the tests on the lowest, the pinned and the newest transformers; sets up three environments of its own.
versions:
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" .ci/versions

# Trains the shipped checkpoint again; resumes where it was interrupted.
tiny: $(READY)
	$(BIN)/python -m demask_hf.tiny

# Measures strategies on a pretrained model of reactions. The wheel that carries it asks for an old transformers, of
# which its model needs nothing: hence --no-deps. With it installed, `make test` runs tests/test_reactions.py in full.
reactions: $(READY)
	$(BIN)/python -m pip install --no-deps rxnmapper==0.4.3
	$(BIN)/python benchmarks/reactions.py --out docs/results/reactions.json

# The same on a pretrained model of antibodies: docs/antibodies.md. Takes hours on a CPU; goes on where it was.
antibodies: $(READY)
	$(BIN)/python -m pip install --no-deps antiberty==0.1.3
	$(BIN)/python benchmarks/antibodies.py --out docs/results
	$(BIN)/python benchmarks/infill_tables.py docs/images
	$(BIN)/python benchmarks/write_results.py

# Trains a small Dream on Python statements and measures strategies on it: docs/code_model.md. Takes hours on a CPU,
# needs a C++ compiler; goes on where it was. On a GPU, untried: CODE="--device cuda --hidden-size 768".
code-model: $(READY)
	$(BIN)/python benchmarks/code_model.py --out docs/results $(CODE)
	$(BIN)/python benchmarks/infill_tables.py docs/images
	$(BIN)/python benchmarks/write_results.py

# What only a GPU can tell, in calls of less than ten minutes; resumes, and refuses without one. `make gpu
# OUT=runs/gpu GPU="--dry-run"` lists the calls, GPU="floor caches" runs two of them.
OUT ?= runs/gpu
gpu: $(READY)
	$(BIN)/python benchmarks/gpu.py --out $(OUT) $(GPU)

$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(TORCH)
	$(BIN)/python -m pip install -e ".[dev]" -c constraints.txt
	touch $@

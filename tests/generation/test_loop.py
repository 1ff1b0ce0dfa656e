from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.functional import dependency
from demask_hf.strategies import strategy_names
from demask_hf.tasks import FAMILIES


MASK, EOS = 1, 2
PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10], [12, 13, 14]])


class OperationCounter(TorchDispatchMode):
    """Count the operations that a piece of code runs, by name; indexing with a mask as "masked_index"."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] += 1
        if name in ("index", "index_put", "index_put_"):
            places = [place for place in args[1] if place is not None]
            self.counts["masked_index"] += any(place.dtype == torch.bool for place in places)
        return func(*args, **(kwargs or {}))


# Looking at every position, or probing some, asks the device where they are, too.
READERS = {"adas", "dawn", "dapd", "edit", "prophet", "t2m", "wino"}
PROBERS = {"punt"}
# Which drafts are verified, and where their candidates are, is asked, too.
DRAFTERS = {"freedave", "lossless"}
# Those that walk the positions compare whole tensors, on the CPU only.
WALKERS = {"demask", "distance", "table"}


@pytest.mark.parametrize("strategy", sorted({*strategy_names()} - READERS - PROBERS - DRAFTERS))
def test_a_step_asks_the_device_once(dream_with_head, strategy):
    with OperationCounter() as operations:
        output = dream_with_head.generate(PROMPTS, strategy=strategy, max_new_tokens=6, return_dict_in_generate=True)
    num_steps = int(output.num_forward_passes.max())
    # The index of the candidates: two of these run on its copy on the host, and once more after the last step.
    assert operations.counts["nonzero"] == 2 * (num_steps + 1)
    # Asking for one number: whether NaN was met, once more after the last step.
    assert operations.counts["_local_scalar_dense"] == num_steps + 1
    # Comparing whole tensors, and indexing with a mask, would ask too.
    assert operations.counts["masked_index"] == 0
    assert operations.counts["equal"] == 0 or strategy in WALKERS


@pytest.mark.parametrize("rule", ["token", "total", "max", "norm"])
def test_on_other_devices_a_selection_asks_once_more_where_four_rounds_suffice(dream_with_head, rule, monkeypatch):
    monkeypatch.setattr(dependency, "_NUM_BLIND_ROUNDS", {})
    arguments = {"strategy": "demask", "rule": rule, "dependency_bound": 0.3, "max_new_tokens": 24}
    with OperationCounter() as operations:
        output = dream_with_head.generate(PROMPTS, return_dict_in_generate=True, **arguments)
    assert operations.counts["equal"] <= output.num_forward_passes.max()


def test_four_rounds_suffice_for_the_shipped_checkpoint(monkeypatch):
    monkeypatch.setattr(dependency, "_NUM_BLIND_ROUNDS", {})
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    prompts = [example.prompt for family in FAMILIES.values() for example in family.distinct("test", 4)]
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    with OperationCounter() as operations:
        output = model.generate(**inputs, strategy="demask", return_dict_in_generate=True)
    assert 0 < operations.counts["equal"] <= output.num_forward_passes.max()


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_blocks_behind_the_first_end_are_never_started(dream, cache):
    seen = []

    class EndInSecondBlock:
        """Make the end of sequence certain wherever the text has six tokens or more."""

        def __call__(self, ids, scores):
            seen.append(ids.clone())
            return scores.index_fill(-1, torch.tensor([EOS]), 100.0 if (ids[:, 7:] != MASK).any() else -100.0)

    output = dream.generate(
        PROMPTS[:1],
        max_new_tokens=16,
        block_length=4,
        strategy="sequential",
        order="left_to_right",
        logits_processor=[EndInSecondBlock()],
        return_dict_in_generate=True,
        block_cache=cache,
    )
    # The first token of the second block is free, the next one is the end; eight positions are never touched.
    assert output.num_forward_passes.tolist() == [6]
    assert output.unmask_step[0, 3:].tolist() == [0, 1, 2, 3, 4, 5] + [-1] * 10
    assert all((ids[:, 11:] == MASK).all() for ids in seen)


@pytest.mark.parametrize(("name", "value", "plain"), [("block_cache", "dual", "'none'"), ("compile", True, "False")])
@pytest.mark.parametrize("strategy", sorted(READERS))
def test_rules_that_look_at_every_position_refuse_what_hides_some(dream, strategy, name, value, plain):
    with pytest.raises(ValueError, match=f"`{name}` must be {plain} for strategy '{strategy}', which looks at every"):
        dream.generate(PROMPTS, max_new_tokens=4, strategy=strategy, **{name: value})


def test_not_a_number_is_reported_after_the_step_at_the_latest(dream):
    def broken(ids, scores):
        return scores * float("nan")

    with pytest.raises(ValueError, match="`logits` must not hold NaN, got some from the model or a logits processor"):
        dream.generate(PROMPTS, max_new_tokens=1, strategy="sequential", logits_processor=[broken])

"""Attention weights of the last layers, against those that transformers returns with eager attention."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn
from transformers.utils import ModelOutput

import demask_hf
from demask_hf.backbones.attention import AttentionReader
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest


MASK = 1
IDS = torch.tensor([[0, 0, 5, 6, MASK, 7], [8, 9, MASK, MASK, 4, 3]])
ATTENTION_MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
SIZES = {"vocab_size": 24, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3, "pad_token_id": 0}


def _llada():
    return demask_hf.LLaDAModelLM(demask_hf.LLaDAConfig(**SIZES, mask_token_id=MASK, rope_theta=1e4))


def _encoder(name, **overrides):
    return getattr(transformers, f"{name}ForMaskedLM")(getattr(transformers, f"{name}Config")(**SIZES, **overrides))


def _build(name, make_dream):
    torch.manual_seed(0)
    if name == "Dream":
        return make_dream(num_hidden_layers=3)
    if name == "Llada":
        return _llada().eval()
    # The same layer three times, and a window of attention in two of three layers.
    ids = {f"{token}_token_id": 2 for token in ("bos", "eos", "cls", "sep")}
    extra = {"Albert": {"embedding_size": 16}, "ModernBert": {"local_attention": 4, **ids}}
    return _encoder(name, **extra.get(name, {})).eval()


class Attentive(nn.Module):
    """A plain module with the attention maps that it is given."""

    def __init__(self, *maps):
        super().__init__()
        self.maps = maps
        self.config = SimpleNamespace(vocab_size=10, mask_token_id=MASK)

    def forward(self, input_ids, output_attentions=False):
        return ModelOutput(
            logits=torch.zeros(*input_ids.shape, 10), attentions=self.maps if output_attentions else None
        )


class Silent(nn.Module):
    """A plain module that takes any keyword and returns logits only."""

    config = SimpleNamespace(vocab_size=10, mask_token_id=MASK)

    def forward(self, input_ids, **unused):
        return ModelOutput(logits=torch.zeros(*input_ids.shape, 10))


class Closed(Silent):
    """The same without further keywords."""

    def forward(self, input_ids):
        return super().forward(input_ids)


@pytest.mark.parametrize("name", ["Dream", "Llada", "Bert", "Albert", "ModernBert"])
@pytest.mark.parametrize("loaded_with", ["sdpa", "eager"])
@pytest.mark.parametrize("num_read", [1, 2, 3])
def test_maps_are_those_of_eager_attention(name, loaded_with, num_read, make_dream):
    model = _build(name, make_dream)
    model.set_attn_implementation("eager")
    expected = model(IDS, attention_mask=ATTENTION_MASK, output_attentions=True)
    model.set_attn_implementation(loaded_with)
    reader = AttentionReader(model, lambda num_layers: num_read)
    with torch.no_grad():
        outputs = reader(input_ids=IDS, attention_mask=ATTENTION_MASK)
    average = torch.stack([layer.mean(dim=1) for layer in expected.attentions[-num_read:]]).mean(dim=0)
    is_real = ATTENTION_MASK.bool()
    assert reader.attentions.shape == (2, 6, 6)
    torch.testing.assert_close(reader.attentions[is_real], average[is_real], atol=1e-5, rtol=0)
    torch.testing.assert_close(outputs.logits[is_real], expected.logits[is_real], atol=1e-4, rtol=1e-4)


def test_layers_are_chosen_from_their_number(make_dream):
    asked = []
    model = make_dream(num_hidden_layers=3)
    AttentionReader(model, lambda num_layers: asked.append(num_layers) or 2)(input_ids=IDS)
    assert asked == [3]


def test_more_layers_than_there_are_means_all(make_dream):
    model = make_dream()
    maps = []
    for count in (2, 9):
        reader = AttentionReader(model, lambda num_layers, count=count: count)
        reader(input_ids=IDS)
        maps.append(reader.attentions)
    assert torch.equal(*maps)


def test_predictions_are_the_same_with_and_without_maps(make_dream):
    backbone = Backbone.of(make_dream())
    plain = backbone.predict(PredictionRequest(IDS, IDS == MASK, ATTENTION_MASK))
    seen = backbone.predict(
        PredictionRequest(IDS, IDS == MASK, ATTENTION_MASK, attention_layers=lambda num_layers: num_layers)
    )
    assert torch.equal(plain.logits, seen.logits)
    assert torch.equal(plain.hidden_states, seen.hidden_states)
    assert plain.attentions is None


def test_maps_of_a_padded_row_are_those_of_the_row_alone(make_dream):
    backbone = Backbone.of(make_dream())
    layers = {"attention_layers": lambda num_layers: 1}
    padded = backbone.predict(PredictionRequest(IDS[:1], IDS[:1] == MASK, ATTENTION_MASK[:1], **layers)).attentions[0]
    alone = backbone.predict(PredictionRequest(IDS[:1, 2:], IDS[:1, 2:] == MASK, None, **layers)).attentions[0]
    torch.testing.assert_close(padded[2:, 2:], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone.sum(dim=-1), torch.ones(4))
    assert not padded[:2].any()
    assert not padded[:, :2].any()


@pytest.mark.parametrize("loaded_with", ["sdpa", "eager"])
def test_the_attention_implementation_is_restored(make_dream, loaded_with):
    model = make_dream()
    model.set_attn_implementation(loaded_with)
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, strategy="dawn")
    assert model.config._attn_implementation == loaded_with
    assert model.model.config._attn_implementation == loaded_with


def test_the_attention_implementation_is_restored_after_an_error(make_dream):
    model, inside = make_dream(), []

    def fail(*unused):
        inside.append(model.config._attn_implementation)
        raise RuntimeError("out of memory")

    handle = model.model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, strategy="dapd")
    handle.remove()
    assert inside != ["sdpa"]
    assert model.config._attn_implementation == "sdpa"
    # Nothing is left that would see the attention of the next forward.
    expected = make_dream()(IDS).logits
    assert torch.equal(model(IDS).logits, expected)


class Turns:
    """Lets one thread of several run at a time; each passes on its turn before every layer of a model."""

    def __init__(self, model, count):
        self.waiting, self.changed, self.turn = list(range(count)), threading.Condition(), 0
        self.local = threading.local()
        self.hooks = [layer.register_forward_pre_hook(self.passed_on) for layer in model.model.layers]

    def passed_on(self, *unused):
        number = getattr(self.local, "number", None)
        if number is not None:
            self._to_the_next(number)
            self._wait(number)

    def run(self, number, call):
        self.local.number = number
        self._wait(number)
        try:
            return call()
        finally:
            self._to_the_next(number, leaves=True)

    def _to_the_next(self, number, leaves=False):
        with self.changed:
            later = [other for other in self.waiting if other > number]
            self.turn = (later or self.waiting)[0]
            if leaves:
                self.waiting.remove(number)
            self.changed.notify_all()

    def _wait(self, number):
        with self.changed:
            assert self.changed.wait_for(lambda: self.turn == number, timeout=60)


@pytest.mark.parametrize("loaded_with", ["sdpa", "eager"])
@pytest.mark.parametrize("part_elements", [None, 48])
def test_threads_may_share_a_model(make_dream, make_head, monkeypatch, loaded_with, part_elements):
    if part_elements is not None:
        # Two candidates of this vocabulary: the output layer runs again for the others.
        monkeypatch.setattr("demask_hf.generation.predictor._MAX_PART_ELEMENTS", part_elements)
    model = make_dream(num_hidden_layers=3)
    model.set_demask_head(make_head(model))
    model.set_attn_implementation(loaded_with)
    strategies = ("dawn", "threshold", "dapd", "demask", "dawn", "klass", "schedule", "entropy_bound")
    cache = {"demask": {"block_cache": "dual", "block_length": 2}}
    jobs = [({"input_ids": IDS[:, index % 4 :]}, strategy) for index, strategy in enumerate(strategies)]
    jobs += [({"input_ids": IDS, "attention_mask": ATTENTION_MASK}, strategy) for strategy in strategies]

    def decode(job):
        output = model.generate(
            **job[0], **cache.get(job[1], {}), max_new_tokens=4, strategy=job[1], return_dict_in_generate=True
        )
        return output.sequences.tolist(), output.unmask_step.tolist()

    expected = [decode(job) for job in jobs]
    turns = Turns(model, len(jobs))
    with ThreadPoolExecutor(len(jobs)) as pool:
        found = list(pool.map(lambda number: turns.run(number, lambda: decode(jobs[number])), range(len(jobs))))
    assert found == expected
    assert model.config._attn_implementation == loaded_with


@pytest.mark.parametrize("reading", ["dawn", "dapd"])
@pytest.mark.parametrize("other", [None, "threshold", "dawn"])
def test_a_forward_that_begins_while_another_thread_reads_is_as_it_is_alone(make_dream, reading, other):
    """The other forward makes its mask while the first one reads, and ends after it."""
    model = make_dream(num_hidden_layers=3)
    model.set_attn_implementation("eager")
    inputs = {"input_ids": IDS, "attention_mask": ATTENTION_MASK}

    def answer(strategy):
        if strategy is None:
            return model(**inputs, output_attentions=True).logits
        return model.generate(**inputs, max_new_tokens=1, max_denoising_steps=1, strategy=strategy)

    expected = answer(reading), answer(other)
    is_reading, is_masked, has_read, names = threading.Event(), threading.Event(), threading.Event(), {}

    def meet(*unused):
        names[threading.get_ident()] = model.config._attn_implementation
        if threading.get_ident() == reader:
            is_reading.set()
            assert is_masked.wait(60)
        else:
            is_masked.set()
            assert has_read.wait(60)

    def read():
        nonlocal reader
        reader = threading.get_ident()
        try:
            return answer(reading)
        finally:
            has_read.set()

    def run():
        assert is_reading.wait(60)
        return answer(other)

    reader = None
    handle = model.model.layers[0].register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        found = [job.result() for job in (pool.submit(read), pool.submit(run))]
    handle.remove()
    assert len(names) == 2
    assert other == "dawn" or sorted(names.values())[1] == "eager"
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("name", ["Llada", "Bert", "ModernBert"])
@pytest.mark.parametrize("strategy", ["dawn", "dapd"])
def test_left_padded_rows_in_blocks_equal_rows_alone(name, strategy, make_dream):
    model = demask_hf.attach(_build(name, make_dream), mask_token_id=MASK)
    kwargs = {"strategy": strategy, "max_new_tokens": 6, "block_length": 3, "return_dict_in_generate": True}
    ids, attention_mask = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]]), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    together = model.generate(ids, attention_mask, **kwargs)
    for row, begin in ((0, 2), (1, 0)):
        alone = model.generate(ids[row : row + 1, begin:], **kwargs)
        assert together.sequences[row, begin:].tolist() == alone.sequences[0].tolist()
        assert together.unmask_step[row, begin:].tolist() == alone.unmask_step[0].tolist()
        assert together.num_forward_passes[row] == alone.num_forward_passes[0]


def test_plain_modules_are_asked_for_their_attentions():
    first, second = torch.rand(2, 3, 6, 6), torch.rand(2, 3, 6, 6)
    model = Attentive(torch.rand(2, 3, 6, 6), first, second)
    prediction = Backbone(model, MASK).predict(
        PredictionRequest(
            IDS, IDS == MASK, None, with_hidden_states=False, attention_layers=lambda num_layers: num_layers - 1
        )
    )
    expected = (first.mean(dim=1) + second.mean(dim=1)) / 2
    torch.testing.assert_close(prediction.attentions, expected)


@pytest.mark.parametrize("model", [Silent(), Closed(), Attentive(), Attentive(None, None)])
@pytest.mark.parametrize("strategy", ["dawn", "dapd"])
def test_models_without_attentions_are_refused(model, strategy):
    demask_hf.attach(model)
    message = f"`model` must return `attentions` for a strategy that reads them, got none from {type(model).__name__}"
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, strategy=strategy)


def test_models_that_hide_the_attention_of_a_layer_are_refused(make_dream):
    model = make_dream()
    model.model.layers[0].self_attn.forward = lambda hidden_states, **unused: (hidden_states, None)
    message = (
        r"`model` must return the attention of each of its 2 layers once to this strategy, got 1 from DreamModel\."
    )
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, strategy="dawn")
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("scaling", [None, 0.5])
def test_masks_of_both_kinds_hide_the_same(scaling):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(1, 4, 3, 4, generator=generator), torch.randn(1, 2, 3, 4, generator=generator)
    is_seen = torch.tensor([[[[True, False, True]]]])
    maps = []
    for mask in (is_seen, torch.zeros(1, 1, 1, 3).masked_fill(~is_seen, torch.finfo(torch.float32).min)):
        reader = AttentionReader(Silent(), lambda num_layers: num_layers)
        reader.see(query, key, mask, scaling)
        maps.append(reader.attentions)
    torch.testing.assert_close(*maps)
    assert not maps[0][..., 1].any()
    scores = query @ key.repeat_interleave(2, dim=1).transpose(-1, -2) * 0.5
    # The product is scaled by 1 / sqrt(4) as well where nothing says how.
    expected = scores.masked_fill(~is_seen, float("-inf")).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(maps[0], expected)


def test_a_bias_of_positions_is_added():
    query = key = torch.zeros(1, 1, 2, 4)
    reader = AttentionReader(Silent(), lambda num_layers: num_layers)
    reader.see(query, key, None, None, torch.tensor([[[[1.0, 1.0], [0.75, 0.25]]]]).log())
    torch.testing.assert_close(reader.attentions, torch.tensor([[[0.5, 0.5], [0.75, 0.25]]]))


def test_padding_that_sees_nothing_leaves_no_nan(make_dream):
    # With a window of two to either side, the first of four columns of padding sees padding only.
    model = _build("ModernBert", make_dream)
    ids, attention_mask = torch.tensor([[0] * 4 + [5, MASK, 7]]), torch.tensor([[0] * 4 + [1] * 3])
    maps = Backbone.of(demask_hf.attach(model, mask_token_id=MASK)).predict(
        PredictionRequest(ids, ids == MASK, attention_mask, attention_layers=lambda num_layers: 2)
    )
    torch.testing.assert_close(maps.attentions.sum(dim=-1), attention_mask.float())

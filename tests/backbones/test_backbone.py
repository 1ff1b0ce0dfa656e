from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

import demask_hf
from demask_hf.backbones.backbone import Backbone, check_head
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.backbones.quirks import quirks_of


MASK = 1


class Unsplit(nn.Module):
    """Hide the inner model of a Dream, so that only its logits and hidden states can be asked for."""

    def __init__(self, dream):
        super().__init__()
        self.dream, self.config = dream, dream.config

    def forward(self, **inputs):
        return self.dream(**inputs)


class LogitsOnly(nn.Module):
    """A model that knows nothing of hidden states."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 10)
        self.config = SimpleNamespace(mask_token_id=MASK, vocab_size=10)

    def forward(self, input_ids, output_hidden_states=False):
        return ModelOutput(logits=self.embedding(input_ids))


def test_candidates_are_read_at_the_position_before(dream):
    sequences = torch.tensor([[5, MASK, 7, MASK], [MASK, 8, 9, 6]])
    prediction = Backbone.of(dream).predict(PredictionRequest(sequences, sequences == MASK, None))
    outputs = dream(sequences, output_hidden_states=True)
    # The last one is the first token of its row, which has no predecessor and is read from its own output.
    rows, columns = [0, 0, 1], [0, 2, 0]
    torch.testing.assert_close(prediction.logits, outputs.logits[rows, columns])
    torch.testing.assert_close(prediction.hidden_states, outputs.hidden_states[-1][rows, columns])


@pytest.mark.parametrize("logits_shift", [0, 1])
def test_shift_decides_which_output_speaks_for_a_position(scripted, logits_shift):
    model = scripted([{5: 1.0}, {6: 1.0}, {7: 1.0}], logits_shift=logits_shift)
    sequences = torch.tensor([[9, MASK, MASK, MASK]])
    prediction = Backbone.of(model).predict(PredictionRequest(sequences, sequences == MASK, None))
    assert prediction.logits.argmax(dim=-1).tolist() == [5, 6, 7]
    assert prediction.hidden_states[:, 0].tolist() == [1, 2, 3]


def test_logits_come_in_row_major_order_of_the_candidates(scripted):
    model = scripted(lambda position, context: {3 + position: 1.0})
    candidates = torch.tensor([[False, True, True], [True, False, True]])
    prediction = Backbone.of(model).predict(PredictionRequest(torch.full((2, 3), MASK), candidates, None))
    assert prediction.logits.argmax(dim=-1).tolist() == [4, 5, 3, 5]


def test_output_embedding_sees_the_candidates_only(dream):
    shapes = []
    handle = dream.lm_head.register_forward_hook(lambda module, inputs, output: shapes.append(inputs[0].shape))
    sequences = torch.tensor([[5, 6, 7, MASK, MASK]] * 3)
    prediction = Backbone.of(dream).predict(PredictionRequest(sequences, sequences == MASK, None))
    handle.remove()
    assert shapes == [(1, 6, dream.config.hidden_size)]
    assert prediction.logits.shape == (6, dream.config.vocab_size)


def test_models_without_an_inner_model_give_the_same(dream):
    sequences = torch.tensor([[5, 6, MASK, 7, MASK]])
    split = Backbone.of(dream)
    whole = Backbone.of(demask_hf.attach(Unsplit(dream)))
    assert split.states_module is dream.model
    assert whole.states_module is None
    first, second = (
        backbone.predict(PredictionRequest(sequences, sequences == MASK, None)) for backbone in (split, whole)
    )
    torch.testing.assert_close(first.logits, second.logits)
    torch.testing.assert_close(first.hidden_states, second.hidden_states)


def test_a_model_without_hidden_states_serves_rules_that_do_not_need_them():
    sequences = torch.tensor([[5, MASK]])
    backbone = Backbone.of(LogitsOnly())
    prediction = backbone.predict(PredictionRequest(sequences, sequences == MASK, None, with_hidden_states=False))
    assert prediction.hidden_states is None
    assert prediction.logits.shape == (1, 10)
    with pytest.raises(ValueError, match="`model` must return `hidden_states` for a dependency head, got none from"):
        backbone.predict(PredictionRequest(sequences, sequences == MASK, None))


def test_left_padding_changes_nothing(dream):
    row = torch.tensor([[5, 6, MASK, 7, MASK]])
    padded = torch.cat([torch.tensor([[0, 0, 0]]), row], dim=1)
    attention_mask = (torch.arange(8) >= 3).long()[None]
    backbone = Backbone.of(dream)
    alone = backbone.predict(PredictionRequest(row, row == MASK, None))
    moved = backbone.predict(PredictionRequest(padded, padded == MASK, attention_mask))
    torch.testing.assert_close(moved.logits, alone.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(moved.hidden_states, alone.hidden_states, atol=1e-4, rtol=0)


def test_first_real_token_behind_padding_is_read_from_its_own_output(dream):
    row = torch.tensor([[MASK, 6, 7]])
    padded = torch.tensor([[0, 0, MASK, 6, 7]])
    backbone = Backbone.of(dream)
    alone = backbone.predict(PredictionRequest(row, row == MASK, None))
    moved = backbone.predict(PredictionRequest(padded, padded == MASK, torch.tensor([[0, 0, 1, 1, 1]])))
    torch.testing.assert_close(moved.logits, alone.logits, atol=1e-4, rtol=0)


def test_a_cache_goes_by_the_name_of_the_models_forward(dream):
    class Old(nn.Module):
        def forward(self, input_ids, past_key_values=None):
            return None

    class New(nn.Module):
        def forward(self, input_ids, cache=None):
            return None

    assert Backbone(Old(), MASK).cache_argument == "past_key_values"
    assert Backbone(New(), MASK).cache_argument == "cache"
    assert Backbone.of(dream).takes(Backbone.of(dream).cache_argument)


def test_logits_are_single_precision_whatever_the_model_is(make_dream):
    model = make_dream().bfloat16()
    sequences = torch.tensor([[5, MASK]])
    prediction = Backbone.of(model).predict(PredictionRequest(sequences, sequences == MASK, None))
    assert prediction.logits.dtype == torch.float32
    assert prediction.hidden_states.dtype == torch.bfloat16


@pytest.mark.parametrize(("model_type", "shift"), [("Dream", 1), ("llada", 0), (None, 0)])
def test_shift_follows_from_the_model_type(model_type, shift):
    assert quirks_of(SimpleNamespace(config=SimpleNamespace(model_type=model_type))).logits_shift == shift


def test_attached_shift_comes_first(make_dream):
    assert quirks_of(demask_hf.attach(make_dream(), logits_shift=0)).logits_shift == 0


def test_attached_mask_token_comes_first(make_dream):
    model = make_dream()
    demask_hf.attach(model, mask_token_id=7)
    assert Backbone.of(model).mask_token_id == 7


def test_mask_token_of_the_generation_config_serves_where_the_model_has_none():
    model = LogitsOnly()
    model.config.mask_token_id = None
    assert Backbone.of(model, 4).mask_token_id == 4


def test_a_model_without_mask_token_is_refused():
    model = LogitsOnly()
    model.config.mask_token_id = None
    with pytest.raises(ValueError, match=r"`mask_token_id` must be known to decode by unmasking, got None: set it in"):
        Backbone.of(model)


@pytest.mark.parametrize("mask_token_id", [-1, 10, 151666])
def test_a_mask_token_outside_the_vocabulary_is_refused(mask_token_id):
    model = LogitsOnly()
    model.config.mask_token_id = mask_token_id
    with pytest.raises(ValueError, match=rf"`mask_token_id` must be in \[0, 10\), got {mask_token_id}\."):
        Backbone.of(model)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("backbone_hidden_size", 64),
        ("backbone_model_type", "llada"),
        ("backbone_num_layers", 28),
        ("backbone_vocab_size", 50),
        ("logits_shift", 0),
    ],
)
def test_a_head_made_for_another_backbone_is_refused(dream, make_head, fact, value):
    head = make_head(dream)
    check_head(dream, head)
    expected = getattr(head.config, fact)
    setattr(head.config, fact, value)
    message = (
        rf"`head` must be made for this backbone, got a head with {fact} {value!r} for a model with {expected!r}\."
    )
    with pytest.raises(ValueError, match=message):
        check_head(dream, head)


@pytest.mark.parametrize("fact", ["backbone_num_layers", "backbone_vocab_size"])
def test_facts_a_head_does_not_name_are_not_compared(dream, make_head, fact):
    head = make_head(dream)
    setattr(head.config, fact, None)
    check_head(dream, head)

"""Model and head that see each row alone."""

import pytest
import torch

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.backbones.rows import RowwiseBackbone, RowwiseHead


MASK = 1
SEQUENCES = torch.tensor([[0, 0, 3, 4, MASK, MASK], [5, 6, 7, MASK, 8, MASK], [0, 9, MASK, MASK, 10, 11]])
ATTENTION_MASK = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
FIRSTS = (2, 0, 1)


def request(**fields):
    return PredictionRequest(SEQUENCES, SEQUENCES == MASK, ATTENTION_MASK, **fields)


def alone(backbone, row, **fields):
    own = SEQUENCES[row : row + 1, FIRSTS[row] :]
    return backbone.predict(PredictionRequest(own, own == MASK, **fields))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_predictions_are_those_of_the_row_alone_bit_for_bit(make_dream, dtype):
    backbone = Backbone.of(make_dream().to(dtype))
    found = RowwiseBackbone(backbone).predict(request())
    rows = [alone(backbone, row) for row in range(3)]
    assert found.logits.dtype == torch.float32
    assert torch.equal(found.logits, torch.cat([row.logits for row in rows]))
    assert torch.equal(found.hidden_states, torch.cat([row.hidden_states for row in rows]))


def test_a_part_never_holds_candidates_of_two_rows(dream):
    backbone = Backbone.of(dream)
    expected = RowwiseBackbone(backbone).predict(request()).logits
    found = RowwiseBackbone(backbone).predict(request(part_size=3))
    parts = [(part.start, part.stop, logits) for part, logits in found.parts()]
    assert [(start, stop) for start, stop, _ in parts] == [(0, 2), (2, 4), (4, 6)]
    assert torch.equal(torch.cat([logits for *_, logits in parts]), expected)
    single = RowwiseBackbone(backbone).predict(request(part_size=1))
    assert [part for part, _ in single.parts()] == [slice(place, place + 1) for place in range(6)]


def test_attention_is_that_of_the_row_with_zeros_at_padding(dream):
    backbone = Backbone.of(dream)
    found = RowwiseBackbone(backbone).predict(request(attention_layers=lambda layers: layers)).attentions
    assert found.shape == (3, 6, 6)
    for row, first in enumerate(FIRSTS):
        own = alone(backbone, row, attention_layers=lambda layers: layers).attentions[0]
        assert torch.equal(found[row, first:, first:], own)
        assert not found[row, :first].any()
        assert not found[row, :, :first].any()


def test_token_types_lose_their_padding_too(scripted):
    seen = []
    model = scripted([{3: 1.0}])

    def forward(input_ids, token_type_ids=None):
        seen.append(token_type_ids.tolist())
        return type(model).forward(model, input_ids)

    backbone = RowwiseBackbone(Backbone.of(model))
    model.forward = forward
    types = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
    backbone.predict(request(token_type_ids=types, with_hidden_states=False))
    assert seen == [[[1, 1, 1, 1]], [[0, 1, 1, 1, 1, 1]], [[0, 1, 1, 1, 1]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dependencies_are_those_of_the_row_alone_bit_for_bit(make_dream, make_head, dtype):
    head = make_head(make_dream()).to(dtype)
    torch.manual_seed(0)
    states, certainty = torch.randn(3, 5, 32, dtype=dtype), torch.rand(3, 5, 2)
    positions, widths = torch.arange(5).expand(3, 5) + 2, (5, 2, 3)
    is_position = torch.tensor([[place < width for place in range(5)] for width in widths])
    given = {"positions": positions, "certainty": certainty}
    with torch.no_grad():
        found = RowwiseHead(head)(states, is_position=is_position, **given).dependencies
        assert found.dtype == torch.float32
        for row, width in enumerate(widths):
            own = {name: tensor[row : row + 1, :width] for name, tensor in given.items()}
            expected = head(states[row : row + 1, :width], **own).dependencies[0]
            assert torch.equal(found[row, :width, :width], expected)
            assert not found[row, width:].any()
            assert not found[row, :, width:].any()
        assert torch.equal(
            RowwiseHead(head)(states[:1], **{n: t[:1] for n, t in given.items()}).dependencies, found[:1]
        )

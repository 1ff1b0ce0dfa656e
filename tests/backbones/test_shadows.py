import pytest
import torch

import demask_hf
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.backbones.shadows import check_can_shadow, with_shadows


MASK = 1
SEQUENCE = torch.tensor([[0, 5, 6, 7, 8, MASK], [9, 10, 11, 12, 13, MASK]])
ATTENTION = torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
POSITIONS = torch.tensor([[0, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]])
TARGETS = torch.tensor([[3, 4, 5], [3, 4, 5]])


def _predict(model, sequence=SEQUENCE, rows=slice(None), is_aligned=True):
    backbone = Backbone.of(model)
    request = PredictionRequest(sequence[rows], sequence[rows] == MASK, ATTENTION[rows], with_hidden_states=False)
    asked = torch.ones_like(TARGETS[rows], dtype=torch.bool)
    shift = backbone.quirks.logits_shift
    full = with_shadows(request, POSITIONS[rows], TARGETS[rows], asked, MASK, shift, is_aligned)
    count = len(request.sequences)
    return backbone.predict(request).logits, backbone.predict(full).logits.split([count, 3 * count])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("is_aligned", [True, False])
def test_the_sequence_does_not_see_its_shadows(make_dream, attention, is_aligned):
    model = make_dream()
    model.set_attn_implementation(attention)
    plain, (own, _) = _predict(model, is_aligned=is_aligned)
    torch.testing.assert_close(own, plain, atol=1e-4, rtol=1e-4)


def test_an_aligned_shadow_does_not_see_the_token_that_it_predicts(make_dream):
    # In one layer nothing can pass through other positions.
    model = make_dream(num_hidden_layers=1)
    before = _predict(model)[1][1].view(2, 3, -1)
    for index, column in enumerate((3, 4)):
        other = SEQUENCE.clone()
        other[:, column] = 20
        after = _predict(model, other)[1][1].view(2, 3, -1)
        torch.testing.assert_close(after[:, index], before[:, index], atol=1e-4, rtol=1e-4)
        assert (after[:, 2] - before[:, 2]).abs().max() > 0.01


def test_a_public_shadow_of_a_shifted_model_sees_it(make_dream):
    model, other = make_dream(num_hidden_layers=1), SEQUENCE.clone()
    other[:, 4] = 20
    before, after = (_predict(model, each, is_aligned=False)[1][1].view(2, 3, -1) for each in (SEQUENCE, other))
    assert (after[:, 1] - before[:, 1]).abs().max() > 0.01


def test_rows_with_padding_get_the_shadows_of_the_row_alone(make_dream):
    model = make_dream()
    together = _predict(model)[1][1].view(2, 3, -1)
    alone = _predict(model, rows=slice(1, 2))[1][1]
    torch.testing.assert_close(together[1], alone, atol=1e-4, rtol=1e-4)


def test_models_and_settings_that_take_no_such_mask_are_refused(make_dream, scripted):
    ids = torch.tensor([[9]])
    with pytest.raises(ValueError, match="`strategy` must not be 'wino' for a ScriptedBackbone.*native models"):
        scripted([{5: 0.9}]).generate(ids, strategy="wino", max_new_tokens=1)
    model = make_dream()
    with pytest.raises(ValueError, match="`batch_invariant` must be False for strategy 'wino'"):
        model.generate(ids, strategy="wino", max_new_tokens=1, batch_invariant=True)
    model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(ValueError, match="`attn_implementation` must be one of sdpa, eager for strategy 'wino', got"):
        check_can_shadow(Backbone.of(model), "wino", False)
    assert demask_hf.make_strategy("wino").remasks

import json
import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel

from demask_hf import DemaskConfig, DemaskHead
from demask_hf.head.modeling_demask import dependency_loss


HIDDEN_SIZE = 24


def _head(seed=0, **overrides):
    settings = {
        "backbone_hidden_size": HIDDEN_SIZE,
        "width": 16,
        "num_attention_heads": 2,
        "num_distance_buckets": 8,
        "max_distance": 64,
        "initializer_range": 0.4,
        **overrides,
    }
    torch.manual_seed(seed)
    return DemaskHead(DemaskConfig(**settings)).eval()


def _inputs(*lengths, seed=1):
    """Return hidden states, positions and `is_position` of rows with the given numbers of positions."""
    generator = torch.Generator().manual_seed(seed)
    size = max(lengths)
    states = torch.randn(len(lengths), size, HIDDEN_SIZE, generator=generator)
    positions = torch.rand(len(lengths), size, generator=generator).cumsum(dim=-1).mul(9).long() + torch.arange(size)
    is_position = torch.arange(size) < torch.tensor(lengths)[:, None]
    return states, positions, is_position


def test_dependencies_are_a_matrix_in_the_unit_interval_with_zero_diagonal():
    states, positions, is_position = _inputs(5, 5)
    output = _head()(states, positions, is_position)
    assert output.dependencies.shape == output.logits.shape == (2, 5, 5)
    assert output.dependencies.dtype == output.logits.dtype == torch.float32
    assert ((output.dependencies >= 0) & (output.dependencies <= 1)).all()
    assert (output.dependencies.diagonal(dim1=1, dim2=2) == 0).all()
    assert output.loss is None
    off_diagonal = ~torch.eye(5, dtype=torch.bool)
    torch.testing.assert_close(output.dependencies[:, off_diagonal], output.logits.sigmoid()[:, off_diagonal])


def test_dependencies_are_not_symmetric():
    output = _head()(*_inputs(5)).dependencies[0]
    assert (output - output.T).abs().max() > 0.01


def test_positions_matter():
    states, positions, is_position = _inputs(5)
    head = _head()
    near, far = (head(states, moved, is_position).dependencies for moved in (positions, positions * 3))
    assert (near - far).abs().max() > 0.01


@pytest.mark.parametrize("num_mixing_layers", [0, 1, 2])
def test_ragged_rows_equal_rows_alone(num_mixing_layers):
    head = _head(num_mixing_layers=num_mixing_layers)
    lengths = (4, 7, 1)
    states, positions, is_position = _inputs(*lengths)
    # What lies in the padding must not matter.
    states = torch.where(is_position[..., None], states, 1e3)
    positions = torch.where(is_position, positions, 999)
    together = head(states, positions, is_position).dependencies
    for row, length in enumerate(lengths):
        alone = head(states[[row], :length], positions[[row], :length]).dependencies[0]
        torch.testing.assert_close(together[row, :length, :length], alone, atol=1e-5, rtol=0)
        assert together[row, length:].abs().sum() + together[row, :, length:].abs().sum() == 0


def test_an_empty_row_beside_others_stays_finite():
    states, positions, _ = _inputs(3, 3)
    is_position = torch.tensor([[True] * 3, [False] * 3])
    output = _head()(states, positions, is_position)
    assert output.dependencies.isfinite().all()
    assert output.dependencies[1].sum() == 0


def test_rows_move_with_a_permutation_of_their_positions():
    states, positions, is_position = _inputs(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    head = _head()
    straight = head(states, positions, is_position).dependencies
    moved = head(states[:, order], positions[:, order], is_position).dependencies
    torch.testing.assert_close(moved, straight[:, order][:, :, order], atol=1e-5, rtol=0)


def test_an_untrained_head_predicts_the_initial_dependency():
    head = _head(initial_dependency=0.2, initializer_range=1e-4)
    dependencies = head(*_inputs(6)).dependencies[0][~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(dependencies, torch.full_like(dependencies, 0.2), atol=2e-3, rtol=0)


def test_half_precision_is_near_single_precision():
    head = _head()
    inputs = _inputs(5, 8)
    single = head(*inputs).dependencies
    half = head.bfloat16()(*inputs)
    assert half.dependencies.dtype == torch.float32
    assert (half.dependencies - single).abs().max() < 0.05
    assert (half.dependencies.diagonal(dim1=1, dim2=2) == 0).all()


def test_half_precision_states_are_cast_to_the_head():
    states, positions, is_position = _inputs(5)
    output = _head()(states.bfloat16(), positions, is_position)
    assert output.dependencies.isfinite().all()


@pytest.mark.parametrize("load", [DemaskHead.from_pretrained, AutoModel.from_pretrained], ids=["class", "auto"])
def test_save_and_load_give_the_same_head(tmp_path, load):
    head = _head()
    head.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    loaded = load(tmp_path)
    assert isinstance(loaded, DemaskHead)
    assert loaded.config.to_dict().keys() == head.config.to_dict().keys()
    assert loaded.config.backbone_hidden_size == HIDDEN_SIZE
    inputs = _inputs(4, 6)
    assert torch.equal(loaded(*inputs).dependencies, head(*inputs).dependencies)


def test_loading_in_half_precision(tmp_path):
    _head().save_pretrained(tmp_path)
    loaded = DemaskHead.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded(*_inputs(3)).dependencies.isfinite().all()


def test_loading_restores_what_is_not_saved(tmp_path):
    head = _head()
    head.save_pretrained(tmp_path)
    loaded = DemaskHead.from_pretrained(tmp_path)
    assert list(dict(head.named_buffers())) == ["distance_bias.buckets"]
    assert loaded.distance_bias.buckets.tolist() == head.distance_bias.buckets.tolist()


def test_saved_config_names_the_backbone(tmp_path):
    _head(base_model_name_or_path="org/model", backbone_vocab_size=40).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "demask"
    assert saved["backbone_hidden_size"] == HIDDEN_SIZE
    assert saved["backbone_vocab_size"] == 40
    assert AutoConfig.from_pretrained(tmp_path).base_model_name_or_path == "org/model"


def test_another_width_is_refused():
    with pytest.raises(ValueError, match=r"`hidden_states` must have the width this head was made for \(24\), got 32"):
        _head()(torch.randn(1, 3, 32), torch.arange(3)[None])


def test_loss_is_cross_entropy_with_soft_targets_over_off_diagonal_pairs():
    head = _head()
    states, positions, is_position = _inputs(3, 2)
    labels = torch.rand(2, 3, 3, generator=torch.Generator().manual_seed(0))
    output = head(states, positions, is_position, labels=labels)
    losses = []
    for row, size in enumerate((3, 2)):
        for i in range(size):
            for j in range(size):
                if i != j:
                    p, y = output.dependencies[row, i, j].item(), labels[row, i, j].item()
                    losses.append(-y * math.log(p) - (1 - y) * math.log(1 - p))
    assert output.loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_loss_ignores_negative_labels():
    head = _head()
    inputs = _inputs(3)
    labels = torch.full((1, 3, 3), -1.0)
    labels[0, 0, 2] = 0.25
    loss = head(*inputs, labels=labels).loss
    p = head(*inputs).dependencies[0, 0, 2].item()
    assert loss.item() == pytest.approx(-0.25 * math.log(p) - 0.75 * math.log(1 - p), abs=1e-5)


def test_loss_without_any_label_is_zero_and_has_a_gradient():
    head = _head()
    loss = head(*_inputs(3), labels=torch.full((1, 3, 3), -1.0)).loss
    loss.backward()
    assert loss.item() == 0.0


def test_loss_is_least_where_the_prediction_equals_the_target():
    target, is_pair = torch.full((1, 2, 2), 0.3), ~torch.eye(2, dtype=torch.bool)[None]
    at_target = dependency_loss(torch.full((1, 2, 2), 0.3).logit(), target, is_pair)
    for other in (0.2, 0.4):
        assert dependency_loss(torch.full((1, 2, 2), other).logit(), target, is_pair) > at_target


def test_every_parameter_learns():
    head = _head(num_mixing_layers=2).train()
    states, positions, is_position = _inputs(6, 4)
    head(states, positions, is_position, labels=torch.rand(2, 6, 6)).loss.backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone_hidden_size": 0}, r"`backbone_hidden_size` must be at least 1, got 0\."),
        ({"width": 0}, r"`width` must be at least 1, got 0\."),
        ({"num_attention_heads": 0}, r"`num_attention_heads` must be at least 1, got 0\."),
        ({"width": 20}, r"`width` must be a multiple of twice `num_attention_heads` \(4\), got 20\."),
        ({"num_distance_buckets": 7}, r"`num_distance_buckets` must be even and at least 4, got 7\."),
        ({"num_distance_buckets": 2}, r"`num_distance_buckets` must be even and at least 4, got 2\."),
        ({"initial_dependency": 0.0}, r"`initial_dependency` must be in \(0, 1\), got 0\.0\."),
        ({"initial_dependency": 1.0}, r"`initial_dependency` must be in \(0, 1\), got 1\.0\."),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        DemaskConfig(**settings)


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassError, match="width"):
        DemaskConfig(width="wide")


def test_buckets_are_exact_for_near_distances_and_shared_by_far_ones():
    head = DemaskHead(DemaskConfig(backbone_hidden_size=8, width=8, num_distance_buckets=16, max_distance=32))
    buckets = head.distance_bias.buckets
    # 8 buckets for each sign; the nearer 4 are exact.
    assert buckets.shape == (65,)
    assert buckets[32 - 3 : 32 + 4].tolist() == [3, 2, 1, 0, 9, 10, 11]
    assert (buckets[33:].diff() >= 0).all()
    assert buckets[-1] == 15
    assert buckets[0] == 7
    offsets = head._offsets(torch.tensor([[0, 5, 500]]))
    assert offsets[0].tolist() == [[32, 37, 64], [27, 32, 64], [0, 0, 32]]


def test_certainty_matters_to_heads_that_read_it():
    states, positions, is_position = _inputs(5, 4)
    certainty = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(2))
    reads, blind = _head(reads_certainty=True), _head()
    found, moved = (reads(states, positions, is_position, value).dependencies for value in (certainty, certainty + 1))
    assert (found - moved).abs().max() > 0.01
    assert torch.equal(
        blind(states, positions, is_position, certainty).dependencies,
        blind(states, positions, is_position).dependencies,
    )
    with pytest.raises(ValueError, match="`certainty` must be given to a head that reads it, got None"):
        reads(states, positions, is_position)

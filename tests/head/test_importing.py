"""Heads of others: what is a dot product is taken in exactly, what is not is refused."""

import json
import math

import pytest
import torch
from safetensors.torch import save_file

from demask_hf import DemaskHead
from demask_hf.cli.main import main
from demask_hf.head.importing import import_head, read_tensors


BACKBONE = {"backbone_hidden_size": 12, "backbone_model_type": "Dream", "logits_shift": 1}


def made_up(prefix="", bias=True, width=10, hidden_size=12):
    """Return the tensors of somebody's head."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name in ("q_proj", "k_proj"):
        tensors[f"{prefix}{name}.weight"] = torch.randn(width, hidden_size, generator=generator)
        if bias:
            tensors[f"{prefix}{name}.bias"] = torch.randn(width, generator=generator)
    return tensors


def inputs():
    states = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))
    return states, torch.arange(5).expand(2, 5)


@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_an_imported_head_is_the_dot_product(scale, is_swapped, bias):
    tensors = made_up("predictor.", bias)
    states, positions = inputs()
    found = import_head(tensors, BACKBONE, scale=scale, is_swapped=is_swapped)(states, positions).dependencies
    projected = {
        name: states @ tensors[f"predictor.{name}.weight"].T + tensors.get(f"predictor.{name}.bias", torch.zeros(10))
        for name in ("q_proj", "k_proj")
    }
    source, target = ("k_proj", "q_proj") if is_swapped else ("q_proj", "k_proj")
    product = projected[source] @ projected[target].transpose(1, 2)
    expected = torch.sigmoid(product * (1 / math.sqrt(10) if scale is None else scale))
    expected.diagonal(dim1=1, dim2=2).zero_()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_padding_forms_no_pair():
    head = import_head(made_up(), BACKBONE)
    states, positions = inputs()
    is_position = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    found = head(states, positions, is_position).dependencies
    assert (found[1, 3:] == 0).all()
    assert (found[1, :, 3:] == 0).all()
    torch.testing.assert_close(found[1:, :3, :3], head(states[1:, :3], positions[1:, :3]).dependencies)


def test_an_imported_head_is_saved_and_loaded(tmp_path):
    head = import_head(made_up(), BACKBONE)
    head.save_pretrained(tmp_path)
    loaded = DemaskHead.from_pretrained(tmp_path)
    assert loaded.config.is_dot_product
    assert {name: tuple(value.shape) for name, value in loaded.state_dict().items()} == {
        "query.weight": (10, 12),
        "query.bias": (10,),
        "key.weight": (10, 12),
        "key.bias": (10,),
    }
    states, positions = inputs()
    assert torch.equal(loaded(states, positions).dependencies, head(states, positions).dependencies)


def test_matrices_with_other_names_are_named():
    tensors = {"w_a": torch.ones(4, 12), "w_b": torch.ones(4, 12)}
    with pytest.raises(ValueError, match=r"`query` must name the query projection: .* got none among w_a, w_b\."):
        import_head(tensors, BACKBONE)
    assert import_head(tensors, BACKBONE, query="w_a", key="w_b.weight").config.width == 4
    with pytest.raises(ValueError, match=r"the head must have a matrix 'x', got none among w_a, w_b\."):
        import_head(tensors, BACKBONE, query="x", key="w_b")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({**made_up(), "norm.weight": torch.ones(12)}, r"got 1 further tensors, such as norm\.weight: what they do"),
        (
            {**made_up(), "other.q_proj.weight": torch.ones(10, 12)},
            r"one matrix with a usual name, got q_proj, other\.q_proj among",
        ),
        (
            made_up(hidden_size=16),
            r"`query` must be a matrix of shape \(10, 12\), .* got q_proj of shape \(10, 16\)\.",
        ),
    ],
)
def test_what_is_no_dot_product_is_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        import_head(tensors, BACKBONE)


def test_files_of_torch_hold_tensors_alone(tmp_path):
    torch.save({"state_dict": made_up()}, tmp_path / "head.pt")
    assert read_tensors(str(tmp_path / "head.pt")).keys() == made_up().keys()
    torch.save({"step": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"`head` must hold named tensors, got '.*other\.pt', which holds something"):
        read_tensors(str(tmp_path / "other.pt"))
    torch.save(DemaskHead, tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"`head` must be a file of tensors alone, got '.*code\.pt'"):
        read_tensors(str(tmp_path / "code.pt"))
    for missing in ("none.pt", "none.safetensors"):
        with pytest.raises(OSError, match=rf"got '.*{missing}', where there is none\."):
            read_tensors(str(tmp_path / missing))


def test_the_command_lists_the_tensors_and_writes_a_head_that_decodes(tmp_path, dream, tokenizer, capsys):
    dream.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    save_file(made_up(width=16, hidden_size=32), tmp_path / "theirs.safetensors")
    model = ("--model", str(tmp_path / "model"))
    assert main(["import-head", str(tmp_path / "theirs.safetensors"), *model, "--out", str(tmp_path / "head")]) == 0
    out = capsys.readouterr().out
    assert sorted(line.split()[-1] for line in out.splitlines() if "proj" in line) == ["key", "key", "query", "query"]
    config = json.loads((tmp_path / "head" / "config.json").read_text())
    assert (config["backbone_hidden_size"], config["backbone_num_layers"]) == (32, dream.config.num_hidden_layers)
    options = ("--head", str(tmp_path / "head"), "--device", "cpu", "--max-new-tokens", "6")
    assert main(["generate", "w3 w4", *model, *options]) == 0
    # What cannot be taken in is listed all the same.
    save_file({**made_up(width=16, hidden_size=32), "norm.weight": torch.ones(32)}, tmp_path / "theirs.safetensors")
    assert main(["import-head", str(tmp_path / "theirs.safetensors"), *model, "--out", str(tmp_path / "no")]) == 2
    captured = capsys.readouterr()
    assert any(line.startswith("norm.weight") and line.endswith("no place") for line in captured.out.splitlines())
    assert "got 1 further tensors, such as norm.weight" in captured.err
    assert not (tmp_path / "no").exists()

"""Loading a model with its head."""

import pytest
import torch

import demask_hf
from demask_hf.models.loading import checked_device, load_model
from demask_hf.models.quantization import check_quantized, quantized


PROMPT = torch.tensor([[5, 6, 7]])


@pytest.fixture
def folders(make_dream, make_head, tokenizer, tmp_path):
    model = make_dream()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    make_head(model).save_pretrained(tmp_path / "head")
    return str(tmp_path / "model"), str(tmp_path / "head")


def test_a_model_comes_with_tokenizer_and_head(folders):
    model, tokenizer = load_model(*folders, device="cpu")
    assert isinstance(model, demask_hf.DreamModel)
    assert isinstance(model.demask_head, demask_hf.DemaskHead)
    assert tokenizer("w5 w6")["input_ids"] == [5, 6]
    assert load_model(folders[0], device="cpu")[0].demask_head is None


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_a_device_map_changes_no_answer(folders, device_map):
    pytest.importorskip("accelerate")
    expected = load_model(*folders, device="cpu")[0].generate(PROMPT, max_new_tokens=4)
    model, _ = load_model(*folders, device_map=device_map)
    assert torch.equal(model.generate(PROMPT, max_new_tokens=4).cpu(), expected.cpu())


def test_the_number_format_is_that_of_the_file_or_the_one_asked_for(folders):
    assert load_model(folders[0], device="cpu")[0].dtype == torch.float32
    assert load_model(folders[0], device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "./missing"}, "`model` must be a folder or a Hub repository, got './missing', which does not exist"),
        ({"head": "/missing"}, "`head` must be a folder or a Hub repository, got '/missing', which does not exist"),
        ({"device": "abacus"}, "`device` must name a device of torch, such as cpu or cuda, got 'abacus'"),
        ({"device": "cuda:99"}, "`device` must be a device that this machine has, got 'cuda:99'"),
        ({"device": "cpu", "device_map": "auto"}, "`device` must be None with a `device_map`, got 'cpu' and 'auto'"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_loaded(folders, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_model(**{"name": folders[0], **arguments})


def test_without_a_name_a_device_is_chosen():
    assert checked_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert checked_device("cpu") == torch.device("cpu")


def test_two_names_of_the_mask_token_are_said_once(make_dream, tokenizer, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("demask_hf.models.attach.logger.warning_once", said.append)
    make_dream(mask_token_id=3).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    load_model(str(tmp_path), device="cpu")
    assert len(said) == 1
    assert said[0].startswith("The config says that the mask token is 3, the tokenizer that it is 1; 3 is used.")


def test_a_model_is_quantised_while_it_is_loaded(folders):
    pytest.importorskip("torchao.quantization", reason="needs torchao")
    model, _ = load_model(*folders, device="cpu", quantization="int8")
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Int8Tensor"
    assert type(model.demask_head.scorer.weight) is torch.nn.Parameter
    assert model.generate(PROMPT, max_new_tokens=4).shape == (1, 7)


def test_quantisation_needs_a_recent_torchao(folders, monkeypatch):
    monkeypatch.setattr("demask_hf.models.quantization.is_torchao_available", lambda: False)
    with pytest.raises(ImportError, match=r"`torchao` 0\.\d+\.0 or newer must be installed for a `quantization`"):
        load_model(folders[0], device="cpu", quantization="int8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("int2", None, "auto"), "`quantization` must be one of int8, int4, got 'int2'"),
        (
            ("int4", torch.device("cpu"), "auto"),
            "`device` must be a GPU for the quantization 'int4' of torchao, got 'cpu'",
        ),
        (
            ("int4", torch.device("cuda"), torch.float16),
            "`dtype` must be 'auto' or 'bfloat16' for the quantization 'int4'",
        ),
    ],
)
def test_a_quantisation_that_does_not_fit_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        quantized(*given)


def test_a_quantisation_that_changes_no_weight_is_refused(dream):
    with pytest.raises(ValueError, match="`quantization` must fit the sizes of the model's layers, got one that"):
        check_quantized(dream)

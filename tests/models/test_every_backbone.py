"""What every native backbone does, on tiny random models: batches, copies, heads, adapters, devices, remote code."""

import json
import subprocess

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

import demask_hf
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.models import lookalikes
from demask_hf.training.prompts import TokenizedPrompt


MASK = 1
SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
SIZES |= {"mask_token_id": MASK, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 2}
SIZES |= {"initializer_range": 0.3, "tie_word_embeddings": False}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
# The `model_type` of every native backbone, and the fields that its config needs beside `SIZES`: a line for each.
BACKBONES: dict[str, dict] = {
    "Dream": {},
    "llada": {},
    "lladamoe": EXPERTS,
    "a2d-qwen3": {"head_dim": 8},
    "a2d-qwen2": {},
    "a2d-llama": {},
    "sdar": {"head_dim": 8},
    "llada2_moe": {"head_dim": 8, **EXPERTS, "n_group": 2, "topk_group": 1},
}
# Those that transformers can spread over processes by the plan of their parent class, as tested here.
TENSOR_PARALLEL = ("Dream", "llada", "lladamoe", "a2d-qwen3", "a2d-qwen2", "a2d-llama")
ROWS = [[5, 6, 7], [8, 9, 10, 11, 12]]
PADDED = torch.tensor([[0, 0, *ROWS[0]], ROWS[1]])
ATTENTION_MASK = torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
SETTINGS = {"strategy": "threshold", "max_new_tokens": 8, "stop_at_eos": False}
AUTO_CLASSES = (AutoModel, AutoModelForMaskedLM, AutoModelForCausalLM)

every_backbone = pytest.mark.parametrize("model_type", BACKBONES)


def build(model_type, **fields):
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **{**SIZES, **BACKBONES[model_type], **fields})
    return AutoModel.from_config(config).eval()


@pytest.fixture(scope="module")
def models():
    """Return the models by type; tests leave them as they are."""
    return {model_type: build(model_type) for model_type in BACKBONES}


@pytest.fixture(scope="module")
def folders(models, tmp_path_factory):
    """Return the folders of their checkpoints."""
    places = {model_type: tmp_path_factory.mktemp(model_type) for model_type in models}
    for model_type, model in models.items():
        model.save_pretrained(places[model_type])
    return places


def test_every_native_type_is_listed():
    assert set(BACKBONES) == set(lookalikes._NATIVE)


@every_backbone
def test_rows_of_a_padded_batch_are_those_alone(models, model_type):
    settings = {**SETTINGS, "return_dict_in_generate": True}
    together = models[model_type].generate(PADDED, ATTENTION_MASK, **settings)
    assert not (together.sequences[:, 5:] == MASK).any()
    for index, row in enumerate(ROWS):
        alone = models[model_type].generate(torch.tensor([row]), **settings)
        assert together.sequences[index, 5:].tolist() == alone.sequences[0, len(row) :].tolist()
        assert together.unmask_step[index, 5:].tolist() == alone.unmask_step[0, len(row) :].tolist()


@every_backbone
def test_the_last_token_moves_the_first_logits(model_type):
    for attention in ("sdpa", "eager"):
        model = build(model_type, attn_implementation=attention)
        before, after = (model(torch.tensor([[5, 6, 7, last]])).logits[0, 0] for last in (8, 9))
        assert (before - after).abs().max() > 1e-3


@every_backbone
def test_a_copy_loads_again_in_one_line(models, folders, model_type):
    fields = json.loads((folders[model_type] / "config.json").read_text())
    assert fields["model_type"] == model_type
    for auto_class in AUTO_CLASSES:
        loaded = auto_class.from_pretrained(folders[model_type])
        assert type(loaded) is type(models[model_type])
        assert torch.equal(loaded(PADDED, ATTENTION_MASK).logits, models[model_type](PADDED, ATTENTION_MASK).logits)


@every_backbone
def test_remote_code_in_the_folder_is_not_run(model_type, tmp_path, models):
    """Published code fails on transformers 5: after the import the class here is chosen, whoever is trusted."""
    models[model_type].save_pretrained(tmp_path)
    (tmp_path / "broken.py").write_text("raise RuntimeError('the code of the folder was run')\n", encoding="utf-8")
    fields = json.loads((tmp_path / "config.json").read_text())
    names = {"AutoConfig": "broken.Config", **{auto.__name__: "broken.Model" for auto in AUTO_CLASSES}}
    (tmp_path / "config.json").write_text(json.dumps({**fields, "auto_map": names}), encoding="utf-8")
    for trust_remote_code in (None, False, True):
        config = AutoConfig.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
        assert type(config) is type(models[model_type].config)
        for auto_class in AUTO_CLASSES:
            loaded = auto_class.from_pretrained(tmp_path, trust_remote_code=trust_remote_code)
            assert type(loaded) is type(models[model_type])
    loaded.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again" / "config.json").read_text())


@every_backbone
def test_hidden_states_come_from_after_the_final_norm(models, model_type):
    """They are what the output layer reads; nothing random happens on the way, in train mode neither."""
    model, sequences = models[model_type], torch.tensor([[5, MASK, 7, MASK]])
    states = []
    handle = model.base_model.norm.register_forward_hook(lambda module, inputs, output: states.append(output))
    backbone = Backbone.of(model)
    prediction = backbone.predict(PredictionRequest(sequences, sequences == MASK))
    handle.remove()
    places = torch.tensor([1, 3]) - backbone.quirks.logits_shift
    assert torch.equal(prediction.hidden_states, states[0][0, places])
    torch.testing.assert_close(model.get_output_embeddings()(prediction.hidden_states), prediction.logits)
    torch.testing.assert_close(model(sequences).logits[0, places], prediction.logits, atol=1e-5, rtol=1e-5)
    model.train()
    again = backbone.predict(PredictionRequest(sequences, sequences == MASK))
    model.eval()
    assert torch.equal(again.hidden_states, prediction.hidden_states)


@every_backbone
def test_a_head_is_trained_adapted_and_exported(model_type, tmp_path, monkeypatch):
    # The trainer collects the garbage of the whole process, which would take most of the time.
    monkeypatch.setattr("gc.collect", lambda *generation: 0)
    model = build(model_type)
    prompts = [TokenizedPrompt((3 + row, 4), (6, 7, 8, 9)) for row in range(4)]
    settings = demask_hf.CollectionSettings(num_states=8, answer_length=4, num_sources=2, batch_size=8)
    states = demask_hf.collect(model, prompts, tmp_path / "states", settings, is_verbose=False)
    assert states.facts["backbone"]["backbone_model_type"] == model_type
    training, held_out = demask_hf.split_by_prompt(states, 0.25, seed=0)
    arguments = {"max_steps": 2, "disable_tqdm": True, "save_strategy": "no"}
    head = demask_hf.new_head(states.facts["backbone"], seed=0, width=16, num_attention_heads=2)
    fit = demask_hf.train_head(head, training, held_out, tmp_path / "head", **arguments)
    assert fit["mae"] < 1.0
    adapted = demask_hf.add_lora(head, rank=2)
    demask_hf.train_head(adapted, training, held_out, tmp_path / "adapter", **arguments)
    folder = demask_hf.export_head(adapted.merge_and_unload(), tmp_path / "export")
    model.load_demask_head(str(folder))
    sequences = model.generate(torch.tensor([[5, 6, 7]]), strategy="demask", max_new_tokens=6)
    assert sequences.shape[1] <= 9
    assert not (sequences == MASK).any()


@every_backbone
def test_an_adapter_around_the_model_takes_part(model_type):
    model = build(model_type)
    plain = model.generate(PADDED, ATTENTION_MASK, **SETTINGS)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    inputs = {"input_ids": PADDED, "attention_mask": ATTENTION_MASK, **SETTINGS}
    changed = adapted.generate(**inputs)
    assert not torch.equal(changed, plain)
    with adapted.disable_adapter():
        assert torch.equal(adapted.generate(**inputs), plain)


@every_backbone
def test_a_device_map_changes_no_answer(models, folders, model_type, tmp_path):
    pytest.importorskip("accelerate")
    spread = {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"}
    spread |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "disk"}
    model = AutoModel.from_pretrained(folders[model_type], device_map=spread, offload_folder=tmp_path)
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    expected = models[model_type].generate(PADDED, ATTENTION_MASK, **SETTINGS)
    assert torch.equal(model.generate(PADDED, ATTENTION_MASK, **SETTINGS), expected)


@every_backbone
def test_a_layer_is_never_split(models, model_type):
    """`device_map="auto"` goes by the names of these classes."""
    names = {type(layer).__name__ for layer in models[model_type].base_model.layers}
    assert names <= set(models[model_type]._no_split_modules)


@every_backbone
def test_quantised_weights_decode(folders, model_type):
    quantization = pytest.importorskip("torchao.quantization", reason="needs torchao")
    from transformers import TorchAoConfig

    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    model = AutoModel.from_pretrained(folders[model_type], quantization_config=config)
    assert type(model.base_model.layers[0].self_attn.o_proj.weight).__name__ == "Int8Tensor"
    sequences = model.generate(PADDED, ATTENTION_MASK, **SETTINGS)
    assert sequences.shape == (2, 13)
    assert not (sequences == MASK).any()


# Loads every folder in two processes, and compares logits and an answer with those of one.
CHILD = """
import sys, torch, torch.distributed
import demask_hf
from transformers import AutoModel
from transformers.distributed import DistributedConfig
torch.set_num_threads(1)
ids = torch.tensor([[5, 6, 7, 1, 1], [8, 9, 10, 1, 1]])
settings = {"strategy": "threshold", "max_new_tokens": 8, "stop_at_eos": False}
for folder in sys.argv[1:]:
    whole = AutoModel.from_pretrained(folder).eval()
    shared = AutoModel.from_pretrained(folder, distributed_config=DistributedConfig(tp_plan="auto")).eval()
    local = shared.model.layers[0].self_attn.q_proj.weight.to_local()
    with torch.no_grad():
        difference = (shared(ids).logits - whole(ids).logits).abs().max().item()
    is_equal = torch.equal(shared.generate(ids[:, :3], **settings), whole.generate(ids[:, :3], **settings))
    if torch.distributed.get_rank() == 0:
        sys.stdout.write(f"{whole.config.model_type} {tuple(local.shape)} {difference:.1e} {is_equal}\\n")
"""


@pytest.mark.slow
def test_two_processes_share_a_model(folders, two_processes, tmp_path):
    """Tensor parallelism by the plan of the parent class, on the CPU (gloo)."""
    script = tmp_path / "child.py"
    script.write_text(CHILD, encoding="utf-8")
    places = [str(folders[model_type]) for model_type in TENSOR_PARALLEL]
    result = subprocess.run([*two_processes, str(script), *places], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.split()[0] in TENSOR_PARALLEL]
    assert [line.split()[0] for line in lines] == list(TENSOR_PARALLEL)
    for line in lines:
        _, *shape, difference, is_equal = line.split()
        # Half of the heads.
        assert " ".join(shape) == "(16, 32)"
        assert float(difference) < 1e-5
        assert is_equal == "True"

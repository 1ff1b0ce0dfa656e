"""Models that somebody else loaded: transformers' masked language models, unknown classes, remote code, PEFT."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast, pipeline

import demask_hf
from demask_hf import BackboneQuirks, DemaskGenerationConfig, DemaskGenerationMixin, declare_backbone
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.generation import limits
from demask_hf.generation import mixin as generation
from demask_hf.models import attach as attaching


VOCAB_SIZE, PAD, MASK, CLS, SEP, UNK = 40, 0, 1, 2, 3, 4
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 96,
    "initializer_range": 0.3,
}
IDS = {"pad_token_id": PAD, "bos_token_id": CLS, "eos_token_id": SEP, "cls_token_id": CLS, "sep_token_id": SEP}
# Configuration class, and what it needs beside the sizes.
ENCODERS = {
    "Bert": {"pad_token_id": PAD},
    "Roberta": IDS,
    "XLMRoberta": IDS,
    "Albert": {**IDS, "embedding_size": 16},
    "DistilBert": {"pad_token_id": PAD, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "Electra": {"pad_token_id": PAD, "embedding_size": 16},
    "ModernBert": {**IDS, "global_attn_every_n_layers": 2, "local_attention": 8},
    "EuroBert": {**IDS, "mask_token_id": MASK, "num_key_value_heads": 2},
}


def build(name, **overrides):
    """Build a random masked language model of a class of transformers, with clear differences between its logits."""
    sizes = {} if name == "DistilBert" else SIZES
    known = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 96, "initializer_range": 0.3}
    config = getattr(transformers, f"{name}Config")(**{**known, **sizes, **ENCODERS[name], **overrides})
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForMaskedLM")(config).eval()


@pytest.fixture(scope="session")
def brackets():
    """Return a tokenizer that puts a text between [CLS] and [SEP]."""
    vocabulary = {"[PAD]": PAD, "[MASK]": MASK, "[CLS]": CLS, "[SEP]": SEP, "[UNK]": UNK}
    vocabulary |= {f"w{index}": index for index in range(5, VOCAB_SIZE)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [("[CLS]", CLS), ("[SEP]", SEP)]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "MASK", "PAD", "UNK")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **names)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_gathered_rows_equal_the_full_forward(name, brackets):
    model = build(name)
    sequences = torch.tensor([[CLS, 5, MASK, 7, MASK, SEP], [CLS, MASK, 8, 9, 10, SEP]])
    full = model(sequences, output_hidden_states=True)
    demask_hf.attach(model, tokenizer=brackets)
    backbone = Backbone.of(model)
    assert backbone.states_module is not None
    shapes = []
    layer = model.get_output_embeddings()
    handle = layer.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    prediction = backbone.predict(PredictionRequest(sequences, sequences == MASK, None))
    handle.remove()
    # The output layer sees the three masked positions, never the twelve of the batch.
    assert shapes == [(1, 3, VOCAB_SIZE)]
    is_word = [token for token in range(VOCAB_SIZE) if token not in (PAD, CLS, SEP, UNK)]
    expected = full.logits[sequences == MASK]
    torch.testing.assert_close(prediction.logits[:, is_word], expected[:, is_word], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prediction.hidden_states, full.hidden_states[-1][sequences == MASK], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_last_token_changes_the_first_logits(name):
    model = build(name)
    first, second = torch.tensor([[CLS, 5, 6, 7, SEP]]), torch.tensor([[CLS, 5, 6, 7, 9]])
    assert (model(first).logits - model(second).logits)[0, 0].abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_strategy_fills_masks_in_place(name, brackets):
    model = demask_hf.attach(build(name), tokenizer=brackets)
    inputs = brackets("w5 [MASK] [MASK] w8 [MASK] w9 [MASK]", return_tensors="pt", return_token_type_ids=False)
    is_given = inputs["input_ids"] != MASK
    # Prophet looks at the answer, and here is none.
    for strategy in sorted(set(demask_hf.strategy_names()) - {"demask", "edit", "wino", "prophet"}):
        filled = model.generate(**inputs, max_new_tokens=0, strategy=strategy)
        assert torch.equal(filled[is_given], inputs["input_ids"][is_given])
        assert not torch.isin(filled[~is_given], torch.tensor([PAD, MASK, CLS, SEP, UNK])).any()


@pytest.mark.parametrize("name", ["Bert", "Roberta", "Albert", "ModernBert"])
def test_text_goes_on_before_the_closing_token(name, brackets):
    model = demask_hf.attach(build(name), tokenizer=brackets)
    prompt = brackets("w5 w6 w7", return_tensors="pt")["input_ids"]
    output = model.generate(prompt, max_new_tokens=4, strategy="sequential", return_dict_in_generate=True)
    assert output.sequences.shape == (1, 9)
    assert output.sequences[0, :4].tolist() == [CLS, 5, 6, 7]
    assert output.sequences[0, -1] == SEP
    assert not torch.isin(output.sequences[0, 4:8], torch.tensor([PAD, MASK, CLS, SEP, UNK])).any()
    assert output.unmask_step[0].tolist().count(-1) == 5
    # The same as filling four masks that stand there already.
    masked = torch.tensor([[CLS, 5, 6, 7, MASK, MASK, MASK, MASK, SEP]])
    assert torch.equal(model.generate(masked, max_new_tokens=0, strategy="sequential"), output.sequences)


def test_prompts_without_closing_token_go_on_at_their_end(brackets):
    model = demask_hf.attach(build("Bert"), tokenizer=brackets)
    sequences = model.generate(torch.tensor([[CLS, 5, 6]]), max_new_tokens=3)
    assert sequences[0, :3].tolist() == [CLS, 5, 6]
    assert not torch.isin(sequences[0, 3:], torch.tensor([MASK, SEP])).any()


def test_prompts_that_end_differently_are_refused(brackets):
    model = demask_hf.attach(build("Bert"), tokenizer=brackets)
    message = r"`input_ids` must end with token 3 in all rows or in none, got row 1 without it\."
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[CLS, 5, SEP], [CLS, 5, 6]]), max_new_tokens=2)


def test_without_a_tokenizer_text_goes_on_after_the_last_token():
    model = demask_hf.attach(build("Bert"), mask_token_id=MASK)
    sequences = model.generate(torch.tensor([[CLS, 5, SEP]]), max_new_tokens=2)
    assert sequences[0, :3].tolist() == [CLS, 5, SEP]
    assert sequences.shape == (1, 5)
    assert model.generate(torch.tensor([[CLS, MASK, SEP]]), max_new_tokens=0).shape == (1, 3)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_left_padded_rows_equal_rows_alone(name, brackets):
    model = demask_hf.attach(build(name), tokenizer=brackets)
    texts = ["w5 w6 [MASK] w7", "w5 [MASK] w7 w8 w9 [MASK] w11 [MASK]"]
    inputs = brackets(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    together = model.generate(**inputs, max_new_tokens=0, strategy="sequential")
    for row, text in enumerate(texts):
        ids = brackets(text, return_tensors="pt")["input_ids"]
        alone = model.generate(ids, max_new_tokens=0, strategy="sequential")
        assert torch.equal(together[row, -ids.shape[1] :], alone[0])


def test_token_types_reach_the_model(brackets):
    model = demask_hf.attach(build("Bert"), tokenizer=brackets)
    inputs = brackets("w5 w6", "w7 [MASK] [MASK]", return_tensors="pt", return_token_type_ids=True)
    assert inputs["token_type_ids"].any()
    seen = []
    handle = model.bert.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["token_type_ids"]), with_kwargs=True
    )
    model.generate(**inputs, max_new_tokens=0, strategy="sequential")
    model.generate(**inputs, max_new_tokens=2, strategy="threshold", confidence_threshold=0.0)
    handle.remove()
    assert torch.equal(seen[0], inputs["token_type_ids"])
    # What continues the text belongs to its last segment.
    assert torch.equal(seen[-1][0], torch.cat([inputs["token_type_ids"][0], torch.ones(2, dtype=torch.long)]))


def test_token_types_of_a_model_without_them(make_dream):
    model, ids = make_dream(), torch.tensor([[5, 6]])
    plain = model.generate(ids, max_new_tokens=2)
    assert torch.equal(model.generate(ids, token_type_ids=torch.zeros_like(ids), max_new_tokens=2), plain)
    with pytest.raises(ValueError, match=r"`token_type_ids` must be 0 for a DreamModel, which has no token types"):
        model.generate(ids, token_type_ids=torch.ones_like(ids), max_new_tokens=2)


def test_token_types_of_another_shape_are_refused(brackets):
    model = demask_hf.attach(build("Bert"), tokenizer=brackets)
    message = r"`token_type_ids` must have the shape of `input_ids` \(1, 3\), got \(1, 2\)\."
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[CLS, MASK, SEP]]), token_type_ids=torch.zeros(1, 2, dtype=torch.long))


def test_the_head_reads_an_encoder(brackets, make_head):
    model = build("Bert")
    head = make_head(model)
    head.config.update({"backbone_model_type": "bert", "logits_shift": 0})
    demask_hf.attach(model, head, tokenizer=brackets)
    inputs = brackets("w5 [MASK] [MASK] w8 [MASK]", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=0, dependency_bound=10.0, return_dict_in_generate=True)
    assert output.num_forward_passes.tolist() == [1]
    assert not any("demask" in name for name in model.state_dict())


def test_an_attached_model_saves_and_loads_as_its_own_class(brackets, tmp_path):
    model = demask_hf.attach(build("Bert"), tokenizer=brackets)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert type(loaded) is transformers.BertForMaskedLM
    ids = torch.tensor([[CLS, 5, SEP]])
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_autoregressive_models_are_refused(name):
    names = {"LlamaForCausalLM": transformers.LlamaConfig, "Qwen2ForCausalLM": transformers.Qwen2Config}
    if name == "GPT2LMHeadModel":
        config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    else:
        config = names[name](**{**SIZES, "num_key_value_heads": 2, "pad_token_id": 0})
    message = (
        rf"`model` must be a masked language model, got {name}: this model is autoregressive, because its first logits"
    )
    with pytest.raises(ValueError, match=message):
        demask_hf.attach(getattr(transformers, name)(config).eval(), mask_token_id=1)


def test_a_decoder_is_refused_by_its_config():
    message = r"got BertForMaskedLM: this model is autoregressive, its config has `is_decoder=True`\."
    with pytest.raises(ValueError, match=message):
        demask_hf.attach(build("Bert", is_decoder=True), mask_token_id=MASK)


def test_an_encoder_with_a_decoder_is_refused():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "vocab_size": 40}
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes))
    with pytest.raises(ValueError, match=r"got BartForConditionalGeneration: this model is an encoder with a decoder"):
        demask_hf.attach(model, mask_token_id=1)


def test_a_causal_class_made_bidirectional_is_taken():
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, pad_token_id=PAD, is_causal=False)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    demask_hf.attach(model, mask_token_id=MASK)
    assert Backbone.of(model).states_module is model.model


def test_a_model_without_mask_token_is_refused():
    message = r"`mask_token_id` must be known to decode by unmasking, got None: set it in .*or the tokenizer to"
    with pytest.raises(ValueError, match=message):
        demask_hf.attach(build("Bert"))


class ClozeModel(nn.Module):
    """A masked language model that owes nothing to transformers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(vocab_size=VOCAB_SIZE, hidden_size=16, mask_token_id=MASK, pad_token_id=PAD)
        self.embedding = nn.Embedding(VOCAB_SIZE, 16)
        self.encoder = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.LayerNorm(16))
        self.output = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, VOCAB_SIZE))

    def forward(self, input_ids, output_hidden_states=False):
        states = self.embedding(input_ids)
        states = self.encoder(states + states.mean(dim=1, keepdim=True))
        hidden_states = (states,) if output_hidden_states else None
        return transformers.utils.ModelOutput(logits=self.output(states), hidden_states=hidden_states)


def test_a_class_nobody_knows_decodes():
    model = demask_hf.attach(ClozeModel())
    assert isinstance(model, ClozeModel)
    assert isinstance(model, DemaskGenerationMixin)
    sequences = model.generate(torch.tensor([[5, MASK, 6]]), max_new_tokens=3, stop_at_eos=False)
    assert sequences.shape == (1, 6)
    assert sequences[0, [0, 2]].tolist() == [5, 6]
    assert MASK not in sequences


def test_a_declared_path_saves_the_output_layer_its_work(monkeypatch):
    monkeypatch.setattr("demask_hf.backbones.quirks._QUIRKS", {})
    declare_backbone("cloze", BackboneQuirks(states="encoder"))
    whole, declared = ClozeModel(), ClozeModel()
    declared.config.model_type = "cloze"
    shapes = []
    declared.output.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    sequences = torch.tensor([[5, MASK, 6, MASK], [MASK, 8, 9, 10]])
    first, second = (
        Backbone.of(demask_hf.attach(model)).predict(PredictionRequest(sequences, sequences == MASK, None))
        for model in (whole, declared)
    )
    assert shapes == [(1, 3, VOCAB_SIZE)]
    torch.testing.assert_close(first.logits, second.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(first.hidden_states, second.hidden_states, atol=1e-5, rtol=0)


def test_a_type_is_declared_once():
    with pytest.raises(ValueError, match=r"`model_type` must not be declared yet, got 'Dream'\."):
        declare_backbone("Dream", BackboneQuirks())


def test_a_shift_is_0_or_1():
    with pytest.raises(ValueError, match=r"`logits_shift` must be 0 or 1, got 2\."):
        demask_hf.attach(ClozeModel(), logits_shift=2)


REMOTE = """
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput


class TinyClozeConfig(PreTrainedConfig):
    model_type = "tiny_cloze"
    vocab_size: int = 40
    hidden_size: int = 16
    mask_token_id: int = 1
    pad_token_id: int | None = 0
    mixes_after: bool = False


class TinyClozeBody(PreTrainedModel):
    config_class = TinyClozeConfig

    def __init__(self, config):
        super().__init__(config)
        self.embedding = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layer = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        states = self.embedding(input_ids)
        states = torch.tanh(self.layer(states + states.mean(dim=1, keepdim=True)))
        return BaseModelOutput(last_hidden_state=states, hidden_states=(states,) if output_hidden_states else None)


class TinyClozeForMaskedLM(PreTrainedModel):
    config_class = TinyClozeConfig
    base_model_prefix = "body"

    def __init__(self, config):
        super().__init__(config)
        self.body = TinyClozeBody(config)
        self.decoder = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.body.embedding

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False):
        outputs = self.body(input_ids, output_hidden_states=output_hidden_states)
        states = outputs.last_hidden_state
        if self.config.mixes_after:
            states = states + states.mean(dim=1, keepdim=True)
        return MaskedLMOutput(logits=self.decoder(states), hidden_states=outputs.hidden_states)
"""


@pytest.fixture
def remote_folder(tmp_path, monkeypatch):
    """Return a function that writes a checkpoint with its own code, as repositories on the Hub have."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))

    def write(**fields):
        folder = tmp_path / "checkpoint"
        folder.mkdir()
        (folder / "modeling_tiny_cloze.py").write_text(REMOTE)
        names = {"AutoConfig": "TinyClozeConfig", "AutoModelForMaskedLM": "TinyClozeForMaskedLM"}
        auto_map = {name: f"modeling_tiny_cloze.{target}" for name, target in names.items()}
        config = {"model_type": "tiny_cloze", "auto_map": auto_map, "hidden_size": 16, "vocab_size": 40, **fields}
        (folder / "config.json").write_text(json.dumps(config))
        generator = torch.Generator().manual_seed(0)
        sizes = {"body.embedding.weight": (40, 16), "body.layer.weight": (16, 16), "body.layer.bias": (16,)}
        sizes |= {"decoder.weight": (40, 16), "decoder.bias": (40,)}
        tensors = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return AutoModelForMaskedLM.from_pretrained(folder, trust_remote_code=True)

    return write


@pytest.mark.parametrize("mixes_after", [False, True])
def test_a_model_of_remote_code_decodes(remote_folder, mixes_after):
    """Where what follows the body looks at all positions, the whole model runs, and the result is the same."""
    model = remote_folder(mixes_after=mixes_after)
    sequences = torch.tensor([[5, MASK, 7, MASK, 9]])
    expected = model(sequences).logits[sequences == MASK]
    demask_hf.attach(model)
    backbone = Backbone.of(model)
    assert (backbone.states_module is None) == mixes_after
    prediction = backbone.predict(PredictionRequest(sequences, sequences == MASK, None))
    torch.testing.assert_close(prediction.logits, expected, atol=1e-5, rtol=0)
    assert not (model.generate(sequences, max_new_tokens=3) == MASK).any()


def test_two_threads_do_not_disturb_each_other(dream):
    prompts = [torch.arange(3, 3 + length)[None] for length in (3, 5, 4, 6)]
    alone = [dream.generate(prompt, max_new_tokens=12, stop_at_eos=False, strategy="sequential") for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        futures = [
            pool.submit(dream.generate, prompt, max_new_tokens=12, stop_at_eos=False, strategy="sequential")
            for prompt in prompts
        ]
        together = [future.result() for future in futures]
    assert all(torch.equal(first, second) for first, second in zip(alone, together, strict=True))


def _with_lora(model, targets):
    peft = pytest.importorskip("peft", reason="needs peft")
    torch.manual_seed(0)
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, init_lora_weights=False)).eval()


def test_a_dream_with_lora_decodes(make_dream, make_head):
    plain = make_dream()
    adapted = _with_lora(make_dream(), ["q_proj", "v_proj"])
    head = make_head(plain)
    assert demask_hf.attach(adapted, head) is adapted
    ids = torch.tensor([[5, 6, 7]])
    sequences = adapted.generate(input_ids=ids, strategy="demask", max_new_tokens=6, stop_at_eos=False)
    assert sequences.shape == (1, 9)
    assert not torch.equal(adapted(ids).logits, plain(ids).logits)
    names = [name for name, _ in adapted.named_parameters() if "lora" in name]
    assert names
    assert not any("demask" in name or "query" in name for name, _ in adapted.named_parameters())
    with adapted.disable_adapter():
        without = adapted.generate(input_ids=ids, strategy="sequential", max_new_tokens=6, stop_at_eos=False)
    assert torch.equal(without, plain.generate(ids, strategy="sequential", max_new_tokens=6, stop_at_eos=False))


def test_a_bert_with_lora_decodes(brackets, make_head):
    model = build("Bert")
    head = make_head(model)
    head.config.update({"backbone_model_type": "bert", "logits_shift": 0})
    adapted = _with_lora(model, ["query", "value"])
    demask_hf.attach(adapted, head, tokenizer=brackets)
    inputs = brackets("w5 [MASK] [MASK] w8", return_tensors="pt")
    filled = adapted.generate(**inputs, strategy="demask", max_new_tokens=0)
    assert not (filled == MASK).any()
    # The head has a module called "query" too, which is no target of the adapter.
    assert not any("lora" in name for name, _ in head.named_parameters())


def test_text_generation_pipeline_samples_at_temperature_0_7(make_dream, tokenizer, monkeypatch):
    model = make_dream()
    model.generation_config = DemaskGenerationConfig(max_new_tokens=4, seed=0, stop_at_eos=False)
    seen = []

    def recorded(*arguments):
        config, rule = resolve(*arguments)
        seen.append((config.do_sample, config.temperature))
        return config, rule

    resolve = generation.resolve_config
    monkeypatch.setattr(generation, "resolve_config", recorded)
    generator = pipeline("text-generation", model=model, tokenizer=tokenizer)
    text = generator("w5 w6")[0]["generated_text"]
    assert text.startswith("w5 w6")
    greedy = generator("w5 w6", do_sample=False)[0]["generated_text"]
    expected = model.generate(**tokenizer("w5 w6", return_tensors="pt", return_token_type_ids=False))
    assert greedy == "w5 w6" + tokenizer.decode(expected[0, 2:], skip_special_tokens=True)
    assert seen[0] == (True, 0.7)
    assert seen[1] == (False, 0.0)


@pytest.fixture
def warnings_of(monkeypatch):
    """Return a function from a module to the list of what its logger says once."""

    def listen(module):
        said = []
        monkeypatch.setattr(module.logger, "warning_once", said.append)
        return said

    return listen


@pytest.mark.parametrize("make_copy", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
@pytest.mark.parametrize("with_head", [False, True])
def test_an_attached_model_is_pickled(brackets, make_head, make_copy, with_head):
    model = build("Bert")
    head = make_head(model) if with_head else None
    if head is not None:
        head.config.update({"backbone_model_type": "bert", "logits_shift": 0})
    demask_hf.attach(model, head, tokenizer=brackets)
    again = make_copy(model)
    assert type(again) is type(model)
    assert isinstance(again, transformers.BertForMaskedLM)
    assert (again.demask_head is None) != with_head
    inputs = brackets("w5 [MASK] [MASK] w8", return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=0)
    assert torch.equal(again.generate(**inputs, max_new_tokens=0), expected)


def test_an_attached_module_is_pickled():
    model = demask_hf.attach(ClozeModel())
    again = pickle.loads(pickle.dumps(model))
    ids = torch.tensor([[5, MASK, 6]])
    assert torch.equal(again.generate(ids, max_new_tokens=2), model.generate(ids, max_new_tokens=2))


def test_models_of_one_class_are_attached_as_one_class(brackets):
    first, second = (demask_hf.attach(build("Bert"), tokenizer=brackets) for _ in range(2))
    assert type(first) is type(second)


def test_two_names_of_the_mask_token_are_said_once(brackets, warnings_of):
    said = warnings_of(attaching)
    model = demask_hf.attach(build("EuroBert", mask_token_id=UNK), tokenizer=brackets)
    assert len(said) == 1
    assert said[0].startswith("The config says that the mask token is 4, the tokenizer that it is 1; 4 is used.")
    assert Backbone.of(model).mask_token_id == UNK
    demask_hf.attach(build("EuroBert"), tokenizer=brackets)
    demask_hf.attach(build("EuroBert", mask_token_id=UNK), mask_token_id=MASK, tokenizer=brackets)
    demask_hf.attach(build("Bert"), tokenizer=brackets)
    assert len(said) == 1


@pytest.mark.parametrize(("name", "positions"), [("Bert", 12), ("Roberta", 11), ("EuroBert", 12)])
def test_texts_longer_than_the_positions_are_refused_or_said_once(brackets, warnings_of, name, positions):
    said = warnings_of(limits)
    model = demask_hf.attach(build(name, max_position_embeddings=12), tokenizer=brackets)
    ids = torch.tensor([[CLS, *[5] * 5, SEP]])
    padded = {"input_ids": torch.nn.functional.pad(ids, (4, 0)), "attention_mask": torch.tensor([[0] * 4 + [1] * 7])}
    settings = {"strategy": "threshold", "confidence_threshold": 0.0}
    model.generate(ids, max_new_tokens=positions - 7, **settings)
    model.generate(**padded, max_new_tokens=positions - 7, **settings)
    assert said == []
    if name == "EuroBert":
        model.generate(ids, max_new_tokens=positions - 6, **settings)
    else:
        message = f"must not be longer than the {positions} positions of a .*{name}ForMaskedLM, got {positions + 1}"
        with pytest.raises(ValueError, match=message):
            model.generate(ids, max_new_tokens=positions - 6, **settings)
    assert len(said) == (name == "EuroBert")
    assert all(f"made for {positions} positions, and a prompt with its answer is longer" in line for line in said)


def test_a_model_behind_virtual_tokens_is_refused(make_dream):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = peft.get_peft_model(make_dream(), peft.PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match=r"must be called with adapters inside of the model, got PROMPT_TUNING: "):
        demask_hf.attach(model)

"""The ways of transformers into a model: each is right, or refused in a sentence."""

import copy

import pytest
import torch
from transformers import (
    AutoModel,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TextIteratorStreamer,
    pipeline,
)

from demask_hf import DemaskGenerationConfig


PAD, MASK, EOS = 0, 1, 2
IDS = torch.tensor([[5, 6, 7]])


def test_continuous_batching_is_not_offered(dream):
    # Servers ask for it before they choose.
    assert not hasattr(dream, "init_continuous_batching")
    sentence = r"Continuous batching decodes from left to right, which this model cannot: pass a left-padded batch to"
    with pytest.raises(NotImplementedError, match=sentence):
        dream.generate_batch([[5, 6]])
    with pytest.raises(NotImplementedError, match=sentence):
        dream.continuous_batching_context_manager()
    with pytest.raises(
        ValueError, match=r"`cache_implementation` must be None for decoding by unmasking, got 'paged'"
    ):
        dream.generate(IDS, cache_implementation="paged")


def test_methods_for_text_that_grows_from_the_left_are_refused(dream, tokenizer):
    with pytest.raises(NotImplementedError, match="no scores from one token to the next"):
        dream.compute_transition_scores(IDS, ())
    with pytest.raises(NotImplementedError, match="Token healing decodes from left to right"):
        dream.heal_tokens(IDS, tokenizer)


def test_servers_pass_config_streamer_and_tokenizer(dream, tokenizer):
    config = copy.deepcopy(dream.generation_config)
    config.update(max_new_tokens=6, do_sample=False)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    ids = dream.generate(**inputs, streamer=streamer, generation_config=config, tokenizer=tokenizer)
    expected = dream.generate(IDS, max_new_tokens=6)
    assert torch.equal(ids, expected)
    assert "".join(streamer).split() == tokenizer.decode(ids[0, 3:]).replace("<pad>", "").split()


def test_servers_read_and_set_options_that_this_decoding_does_not_have(dream, tokenizer):
    config = copy.deepcopy(dream.generation_config)
    assert config.cache_implementation is None
    assert config.num_beams is None
    with pytest.raises(AttributeError, match="'DemaskGenerationConfig' object has no attribute 'num_beans'"):
        _ = config.num_beans
    # What requests may ask for.
    config.temperature, config.do_sample, config.repetition_penalty, config.use_cache = 0.0, False, 1.0, False
    ids = dream.generate(IDS, generation_config=config, max_new_tokens=6)
    assert torch.equal(ids, dream.generate(IDS, max_new_tokens=6))
    config.cache_implementation = "static"
    with pytest.raises(ValueError, match=r"`cache_implementation` must be None for decoding by .*, got 'static'"):
        dream.generate(IDS, generation_config=config)
    assert "num_beams" not in config.to_dict()


def test_the_pipeline_that_reads_logits_at_the_masks_is_refused(make_dream, spelling):
    fill = pipeline("fill-mask", model=make_dream(vocab_size=len(spelling)), tokenizer=spelling)
    with pytest.raises(
        NotImplementedError, match="The pipeline 'fill-mask' reads the logits at a mask, and this model"
    ):
        fill(f"Q{spelling.mask_token}a")


def test_outputs_are_those_of_a_causal_model(dream):
    output = dream(IDS)
    assert type(output).__mro__[1].__name__ == "CausalLMOutputWithPast"
    assert list(output) == ["logits"]
    assert torch.equal(dream(IDS, return_dict=False)[0], output.logits)
    assert torch.isfinite(dream(IDS, labels=IDS).loss)


def test_an_exported_model_computes_the_same(dream):
    exported = torch.export.export(dream, (IDS,), strict=False).module()
    torch.testing.assert_close(exported(IDS).logits, dream(IDS).logits, atol=1e-5, rtol=0)


def test_pipelines_take_stop_sequences(make_dream, spelling):
    generate = pipeline("text-generation", model=make_dream(vocab_size=len(spelling)), tokenizer=spelling)
    letters = spelling("abcdefghijklmnopqrstuvwxyz")["input_ids"]
    others = [token for token in range(len(spelling)) if token not in letters]
    settings = {"max_new_tokens": 12, "do_sample": False, "suppress_tokens": others, "return_tensors": True}
    tokens = generate("Q:", **settings)[0]["generated_token_ids"]
    # The last letter of the answer that did not occur before.
    index = max(k for k in range(2, len(tokens)) if tokens[k] not in tokens[:k])
    assert 2 <= index < len(tokens) - 1
    cut = generate("Q:", stop_sequence=spelling.decode([tokens[index]]), **settings)[0]["generated_token_ids"]
    assert cut[: index + 1] == tokens[: index + 1]
    assert set(cut[index + 1 :]) == {PAD}


def test_pipelines_take_chats_and_configs(dream, tokenizer, monkeypatch):
    generate = pipeline("text-generation", model=dream, tokenizer=tokenizer)
    settings = {"max_new_tokens": 8, "do_sample": False, "stop_at_eos": False, "return_full_text": False}
    (whole,) = generate("w5 w6", **settings)
    monkeypatch.setattr(tokenizer, "chat_template", "{% for turn in messages %}{{ turn.content }}{% endfor %}")
    (chat,) = generate([{"role": "user", "content": "w5 w6"}], **settings)
    assert chat["generated_text"] == whole["generated_text"]
    config = GenerationConfig(max_new_tokens=8, do_sample=False)
    (found,) = generate("w5 w6", generation_config=config, stop_at_eos=False, return_full_text=False)
    assert found == whole
    batch = generate(["w5 w6", "w7"], batch_size=2, **settings)
    assert batch[0] == [whole]


def test_pipelines_refuse_what_cannot_be_done(dream, tokenizer):
    generate = pipeline("text-generation", model=dream, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"`num_beams` must be 1 for decoding by unmasking, got 2"):
        generate("w5 w6", num_beams=2)
    with pytest.raises(ValueError, match=r"`generation_config` must|`guidance_scale` must be None"):
        generate("w5 w6", generation_config=GenerationConfig(guidance_scale=2.0))
    assisted = pipeline("text-generation", model=dream, tokenizer=tokenizer, assistant_model=dream)
    with pytest.raises(ValueError, match=r"`assistant_model` must be None for decoding by unmasking, got DreamModel"):
        assisted("w5 w6")


def _trainer(model, tokenizer, folder, **arguments):
    settings = {"predict_with_generate": True, "report_to": "none", "use_cpu": True, "generation_max_length": 8}
    arguments = Seq2SeqTrainingArguments(str(folder), per_device_eval_batch_size=2, **{**settings, **arguments})
    return Seq2SeqTrainer(model, arguments, processing_class=tokenizer)


def test_trainers_predict_with_generate(make_dream, tokenizer, tmp_path):
    model = make_dream()
    rows = [{"input_ids": [5, 6, 7 + k], "attention_mask": [1, 1, 1], "labels": [5, 6, 7 + k]} for k in range(3)]
    with pytest.raises(ValueError, match=r"`model.generation_config.max_length` must be set for Seq2SeqTrainer"):
        _trainer(model, tokenizer, tmp_path).predict(rows)
    model.generation_config.max_length = 8
    found = _trainer(model, tokenizer, tmp_path).predict(rows).predictions
    for row, ids in zip(rows, found, strict=True):
        expected = model.generate(torch.tensor([row["input_ids"]]), max_length=8)
        assert ids.tolist() == expected[0].tolist()
    with pytest.raises(ValueError, match=r"`num_beams` must be 1 for decoding by unmasking, got 3"):
        _trainer(model, tokenizer, tmp_path, generation_num_beams=3).predict(rows)


def test_a_function_in_place_of_the_loop_is_refused(dream):
    with pytest.raises(ValueError, match=r"`custom_generate` must name a folder or repository, got a function\."):
        dream.generate(IDS, custom_generate=lambda model, **kwargs: None)


def test_settings_given_while_loading_are_those_of_the_model(make_dream, tmp_path):
    make_dream().save_pretrained(tmp_path)
    for config in (GenerationConfig(max_new_tokens=3), DemaskGenerationConfig(max_new_tokens=3)):
        model = AutoModel.from_pretrained(tmp_path, generation_config=config)
        assert isinstance(model.generation_config, DemaskGenerationConfig)
        assert model.generate(IDS).shape == (1, 6)


def test_compiled_and_parallel_calls_of_transformers(dream):
    # What accelerate and benchmarks pass along by habit.
    ids = dream.generate(IDS, max_new_tokens=4, use_cache=False, synced_gpus=None, disable_compile=True)
    assert torch.equal(ids, dream.generate(IDS, max_new_tokens=4))

import pytest
import torch

from demask_hf.evaluation.decoding import decode_prompts


PROMPTS = ["w5 w6 w7", "w8", "w9 w10", "w11 w12 w13 w14", "w15"]


def _decode(model, tokenizer, prompts=PROMPTS, **kwargs):
    return decode_prompts(model, tokenizer, prompts, **{"strategy": "threshold", "max_new_tokens": 6, **kwargs})


def _facts(decodings):
    """Return everything but the time."""
    return [{name: value for name, value in vars(decoding).items() if name != "seconds"} for decoding in decodings]


def test_a_decoding_is_what_generate_returns(dream, tokenizer):
    for decoding, prompt in zip(_decode(dream, tokenizer), PROMPTS, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = dream.generate(ids, strategy="threshold", max_new_tokens=6, return_dict_in_generate=True)
        is_kept = output.unmask_step[0] >= 0
        assert decoding.prompt == prompt
        assert list(decoding.tokens) == output.sequences[0][is_kept].tolist()
        assert list(decoding.unmask_steps) == output.unmask_step[0][is_kept].tolist()
        assert decoding.num_forward_passes == output.num_forward_passes.item()
        assert decoding.num_probe_passes == 0
        assert decoding.num_remasked == 0
        assert decoding.num_tokens == int(is_kept.sum())
        assert decoding.tokens_per_forward == pytest.approx(output.tokens_per_forward.item())
        assert decoding.answer == tokenizer.decode(decoding.tokens, skip_special_tokens=True)
        assert decoding.seconds > 0


def test_changes_of_written_positions_are_counted(dream, tokenizer):
    settings = {"strategy": "t2m", "remask_threshold": 0.5}
    counts = [decoding.num_remasked for decoding in _decode(dream, tokenizer, **settings)]
    ids = [tokenizer(prompt, return_tensors="pt")["input_ids"] for prompt in PROMPTS]
    outputs = [dream.generate(each, max_new_tokens=6, return_dict_in_generate=True, **settings) for each in ids]
    assert counts == [output.num_remasked.item() for output in outputs]
    assert any(counts)


@pytest.mark.parametrize("kwargs", [{}, {"temperature": 1.0, "seed": 7}])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_batch_size_changes_no_answer(dream, tokenizer, batch_size, kwargs):
    reference = _decode(dream, tokenizer, batch_size=3, **kwargs)
    assert _facts(_decode(dream, tokenizer, batch_size=batch_size, **kwargs)) == _facts(reference)


def test_each_prompt_has_a_seed_of_its_own(dream, tokenizer):
    kwargs = {"temperature": 3.0, "stop_at_eos": False}
    decodings = _decode(dream, tokenizer, ["w5"] * 4, seed=7, **kwargs)
    assert len({decoding.tokens for decoding in decodings}) > 1
    (third,) = _decode(dream, tokenizer, ["w5"], seed=9, **kwargs)
    assert third.tokens == decodings[2].tokens


def test_filled_prompts_are_read_from_the_first_mask(dream, tokenizer):
    (decoding,) = _decode(dream, tokenizer, ["w5 <mask> w7 <mask> w8"], max_new_tokens=0)
    assert len(decoding.tokens) == 4
    assert [step >= 0 for step in decoding.unmask_steps] == [True, False, True, False]
    assert decoding.num_tokens == 2
    assert decoding.tokens[1] == 7


def test_one_answer_is_decoded_for_each_prompt(make_dream, tokenizer):
    model = make_dream()
    expected = _facts(_decode(model, tokenizer))
    model.generation_config.num_return_sequences = 2
    assert _facts(_decode(model, tokenizer)) == expected
    with pytest.raises(ValueError, match=r"`num_return_sequences` must be 1 here, got 2: repeat the prompts instead"):
        _decode(model, tokenizer, num_return_sequences=2)


def test_wrong_arguments_are_those_of_generate(dream, tokenizer):
    with pytest.raises(ValueError, match="`confidence_treshold` must be .* nearest: confidence_threshold"):
        _decode(dream, tokenizer, confidence_treshold=0.5)
    with pytest.raises(ValueError, match=r"`batch_size` must be an integer of at least 1, got 0\."):
        _decode(dream, tokenizer, batch_size=0)


def test_results_do_not_depend_on_the_padding_side_of_the_tokenizer(dream, tokenizer):
    expected = _facts(_decode(dream, tokenizer))
    tokenizer.padding_side = "right"
    try:
        assert _facts(_decode(dream, tokenizer)) == expected
    finally:
        tokenizer.padding_side = "left"


def test_sampling_without_a_seed_follows_the_global_generator(dream, tokenizer):
    torch.manual_seed(0)
    first = _facts(_decode(dream, tokenizer, temperature=2.0))
    torch.manual_seed(0)
    assert _facts(_decode(dream, tokenizer, temperature=2.0)) == first

import re
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    MaxLengthCriteria,
    StoppingCriteriaList,
    TextDiffusionStreamer,
    TextIteratorStreamer,
    TextStreamer,
)

from demask_hf.generation.callbacks import StepRecorder, finished_lengths


PAD, MASK, EOS = 0, 1, 2
PROMPT = torch.tensor([[9]])


def _ordered(order, tokens):
    """Return a script whose position k is written in step `order[k]` by the sequential strategy."""
    return [{token: 0.95 - 0.05 * step} for step, token in zip(order, tokens, strict=True)]


class RecordingStreamer:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.texts, self.drafts, self.steps, self.is_ended = [], [], [], False

    def put(self, tokens):
        assert not self.is_ended
        self.texts.append(tokens.tolist())

    def put_draft(self, tokens):
        assert not self.is_ended
        self.drafts.append(tokens.tolist())

    def put_step(self, tokens, unmask_step, num_forward_passes):
        assert not self.is_ended
        self.steps.append((tokens.tolist(), unmask_step.tolist(), num_forward_passes))

    def end(self):
        self.is_ended = True

    @property
    def tokens(self):
        return sum(self.texts, [])


def _stream(model, ids=PROMPT, **kwargs):
    streamer = RecordingStreamer()
    kwargs = {"max_new_tokens": 4, "strategy": "sequential", **kwargs}
    output = model.generate(ids, streamer=streamer, return_dict_in_generate=True, **kwargs)
    assert streamer.is_ended
    return streamer, output


def test_text_is_sent_as_soon_as_everything_before_it_is_written(scripted):
    streamer, _ = _stream(scripted(_ordered([1, 0, 3, 2], [5, 6, 7, 8])))
    # The prompt; nothing; two tokens at once; nothing; the last two.
    assert streamer.texts == [[9], [5, 6], [7, 8]]


def test_drafts_show_the_rest_with_the_likeliest_tokens(scripted):
    streamer, _ = _stream(scripted(_ordered([1, 0, 3, 2], [5, 6, 7, 8])))
    assert streamer.drafts == [[5, 6, 7, 8], [7, 8], [7, 8]]


def test_steps_show_the_answer_with_its_masks(scripted):
    streamer, _ = _stream(scripted(_ordered([1, 0, 3, 2], [5, 6, 7, 8])))
    assert streamer.steps == [
        ([MASK, 6, MASK, MASK], [-1, 0, -1, -1], 1),
        ([5, 6, MASK, MASK], [1, 0, -1, -1], 2),
        ([5, 6, MASK, 8], [1, 0, -1, 2], 3),
        ([5, 6, 7, 8], [1, 0, 3, 2], 4),
    ]


def test_drafts_change_with_the_predictions(scripted):
    def script(position, context):
        before = context[position - 1]
        return {before + 1: 0.95} if before != MASK else {3: 0.4}

    streamer, output = _stream(scripted(script), torch.tensor([[4]]))
    assert streamer.texts == [[4], [5], [6], [7], [8]]
    assert streamer.drafts == [[3, 3, 3], [3, 3], [3]]
    assert output.sequences.tolist() == [[4, 5, 6, 7, 8]]


def test_streamers_without_drafts_are_served(scripted):
    streamer = RecordingStreamer()
    plain = SimpleNamespace(put=streamer.put, end=streamer.end)
    scripted(_ordered([1, 0, 3, 2], [5, 6, 7, 8])).generate(
        PROMPT, max_new_tokens=4, strategy="sequential", streamer=plain
    )
    assert streamer.tokens == [9, 5, 6, 7, 8]
    assert streamer.is_ended


@pytest.mark.parametrize(
    ("order", "tokens"),
    [
        ([0, 1, 2, 3], [5, 6, EOS, 7]),
        ([2, 1, 0, 3], [5, 6, EOS, 7]),
        # A token behind the EOS is written before it, and stands in the input when the text grows past the EOS.
        ([2, 3, 1, 0], [5, 6, EOS, 7]),
        ([3, 0, 2, 1], [5, EOS, 6, EOS]),
    ],
)
def test_streamed_tokens_end_with_the_eos(scripted, order, tokens):
    streamer, output = _stream(scripted(_ordered(order, tokens)))
    end = output.sequences[0].tolist().index(EOS)
    assert streamer.tokens == output.sequences[0, : end + 1].tolist()


def test_tokens_written_with_the_eos_but_behind_it_are_not_streamed(scripted):
    script = [{5: 0.99}, {EOS: 0.99}, {6: 0.99}, {7: 0.99}]
    streamer, output = _stream(scripted(script), strategy="threshold")
    assert output.sequences.tolist() == [[9, 5, EOS, PAD, PAD]]
    assert streamer.tokens == [9, 5, EOS]


def test_streamed_tokens_end_where_a_criterion_stopped(scripted):
    script = [{5: 0.99}, {6: 0.99}, {7: 0.99}, {8: 0.99}]
    criteria = StoppingCriteriaList([MaxLengthCriteria(3)])
    streamer, output = _stream(scripted(script), strategy="threshold", stopping_criteria=criteria)
    assert output.sequences.tolist() == [[9, 5, 6, PAD, PAD]]
    assert streamer.tokens == [9, 5, 6]


def test_drafts_hold_no_masks_inside_a_block(scripted):
    streamer, _ = _stream(scripted(_ordered([3, 2, 1, 0], [5, 6, 7, 8])))
    assert streamer.drafts
    assert all(MASK not in draft for draft in streamer.drafts)


def test_infilled_prompts_are_streamed_in_order(scripted):
    model = scripted(lambda position, context: {3 + position: 0.9 - 0.1 * position})
    streamer, output = _stream(model, torch.tensor([[9, MASK, 8]]), max_new_tokens=2)
    assert streamer.texts[0] == [9]
    assert streamer.tokens == output.sequences[0].tolist() == [9, 4, 8, 6, 7]


def test_streamed_tokens_equal_the_output_of_a_dream(dream):
    for strategy in ("sequential", "threshold", "schedule"):
        for stop_at_eos in (True, False):
            kwargs = {"strategy": strategy, "max_new_tokens": 9, "stop_at_eos": stop_at_eos}
            streamer, output = _stream(dream, torch.tensor([[5, 6, 7]]), **kwargs)
            kept = int((output.unmask_step >= 0).sum()) + 3
            assert streamer.tokens == output.sequences[0, :kept].tolist()


def test_several_prompts_are_refused(scripted):
    with pytest.raises(ValueError, match=r"`streamer` must be used with a single prompt, got 2 prompts\."):
        _stream(scripted([{5: 0.9}] * 4), torch.tensor([[9], [8]]))


def test_text_streamer(scripted, tokenizer, capsys):
    script = _ordered([1, 0, 2, 3], [5, 6, 7, EOS])
    for kwargs, expected in (
        ({}, "w9 w5 w6 w7 <eos>\n"),
        ({"skip_prompt": True, "skip_special_tokens": True}, "w5 w6 w7\n"),
    ):
        streamer = TextStreamer(tokenizer, **kwargs)
        scripted(script).generate(PROMPT, max_new_tokens=4, strategy="sequential", streamer=streamer)
        assert capsys.readouterr().out == expected


def test_text_iterator_streamer(scripted, tokenizer):
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60)
    scripted(_ordered([1, 0, 3, 2], [5, 6, 7, 8])).generate(
        PROMPT, max_new_tokens=4, strategy="sequential", streamer=streamer
    )
    pieces = list(streamer)
    assert "".join(pieces) == "w5 w6 w7 w8"
    assert len([piece for piece in pieces if piece]) > 1


def _shown(text):
    """Return the text that stays on a terminal, and the drafts that were overwritten."""
    drafts = re.findall(r"\x1b\[33m(.*?)\x1b\[0m", text, flags=re.DOTALL)
    return re.sub(r"\x1b7\x1b\[33m.*?\x1b\[0m|\x1b8\x1b\[J", "", text, flags=re.DOTALL), drafts


def test_text_diffusion_streamer(scripted, tokenizer, capsys):
    script = _ordered([1, 0, 3, 2], [5, 6, 7, 8])
    streamer = TextDiffusionStreamer(tokenizer)
    scripted(script).generate(PROMPT, max_new_tokens=4, strategy="sequential", streamer=streamer)
    text, drafts = _shown(capsys.readouterr().out)
    assert text.split() == ["w9", "w5", "w6", "w7", "w8"]
    assert [draft.split() for draft in drafts] == [["w5", "w6", "w7", "w8"], ["w7", "w8"], ["w7", "w8"]]


def test_recorder_keeps_copies():
    sequences = torch.tensor([[9, MASK]])
    recorder = StepRecorder(sequences)
    sequences[0, 1] = 5
    recorder(SimpleNamespace(sequences=sequences), sequences)
    sequences[0, 1] = 6
    assert [kept.tolist() for kept in recorder.history] == [[[9, MASK]], [[9, 5]]]


def test_finished_lengths_end_at_the_first_mask_or_with_the_row():
    sequences = torch.tensor([[9, 5, MASK, 6], [MASK, 5, 6, 7], [9, 5, 6, 7], [9, 5, 6, 7]])
    loop = SimpleNamespace(
        backbone=SimpleNamespace(mask_token_id=MASK), kept_lengths=lambda state: torch.tensor([4, 4, 4, 2])
    )
    assert finished_lengths(loop, SimpleNamespace(sequences=sequences)) == [2, 0, 4, 2]

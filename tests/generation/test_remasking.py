"""What a strategy may change after it was written, and what the loop makes of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from demask_hf import UnmaskingStrategy
from demask_hf.strategies import Decision


MASK, EOS, PAD = 1, 2, 0
PROMPT = torch.tensor([[9]])
FIRST, SECOND, THIRD = {5: 0.9}, {6: 0.8}, {7: 0.7}


@dataclass
class Planned(UnmaskingStrategy):
    """Decide as a list of functions says, one for each step of the first row; then as the last one."""

    plan: list[Callable]
    steps: list = field(default_factory=list)

    name = "planned"
    remasks = True
    needs = frozenset({"review"})

    def select(self, step):
        self.steps.append(step)
        return self.plan[min(len(self.steps), len(self.plan)) - 1](step)

    def fresh(self, **fields):
        return self


def _at(step, *columns):
    places = torch.zeros_like(step.candidates)
    places[:, list(columns)] = True
    return places


def _nothing(step):
    return Decision(step.candidates & False)


def _everything(step):
    return Decision(step.candidates, revisited=torch.ones(len(step.candidates), dtype=torch.bool))


def _remask(*columns, revisited=True):
    def decide(step):
        again = torch.full((len(step.candidates),), revisited)
        return Decision(step.candidates, remasked=_at(step, *columns), revisited=again)

    return decide


def _edit(column, token, revisited=True):
    def decide(step):
        selected, again = step.candidates | _at(step, column), torch.full((len(step.candidates),), revisited)
        return Decision(selected, torch.where(_at(step, column), token, 4), revisited=again)

    return decide


@pytest.fixture
def decode(scripted):
    def decoded(plan, script=(FIRST, SECOND, THIRD), prompt=PROMPT, model=None, **kwargs):
        rule = plan if isinstance(plan, Planned) else Planned(plan)
        settings = {"max_new_tokens": len(script), "return_dict_in_generate": True, "output_history": True}
        model = scripted(list(script)) if model is None else model
        return model.generate(prompt, strategy=rule, **{**settings, **kwargs})

    return decoded


def test_a_remasked_position_is_written_again_and_counted(decode):
    output = decode([_everything, _remask(2), _everything, _nothing])
    assert output.sequences.tolist() == [[9, 5, 6, 7]]
    # Written in step 0, taken back in step 1, written in step 2; step 3 finds nothing to do.
    assert output.unmask_step.tolist() == [[-1, 0, 2, 0]]
    assert output.num_forward_passes.tolist() == [4]
    assert output.num_remasked.tolist() == [1]
    assert [each[0].tolist() for each in output.history[1:]] == [
        [9, 5, 6, 7],
        [9, 5, MASK, 7],
        [9, 5, 6, 7],
        [9, 5, 6, 7],
    ]
    assert output.tokens_per_forward.tolist() == [0.75]


def test_without_a_wish_to_return_a_row_ends_when_it_is_written(decode):
    assert decode([lambda step: Decision(step.candidates)]).num_forward_passes.tolist() == [1]
    # A remasked position alone keeps a row going.
    output = decode([_everything, _remask(1, revisited=False), lambda step: Decision(step.candidates)])
    assert output.num_forward_passes.tolist() == [3]


def test_a_look_that_changes_nothing_ends_the_row_whatever_the_strategy_wants(decode):
    assert decode([_everything]).num_forward_passes.tolist() == [2]


def test_the_prompt_is_never_changed(decode):
    plan = [_everything, lambda step: Decision(_at(step, 0), torch.full_like(step.sequences, 8), _at(step, 0, 1))]
    output = decode([*plan, _everything])
    assert output.sequences.tolist() == [[9, 5, 6, 7]]
    assert output.num_remasked.tolist() == [1]
    assert output.unmask_step.tolist() == [[-1, 2, 0, 0]]


def test_masks_of_the_prompt_may_be_changed_and_its_words_may_not(decode):
    output = decode([_everything, _remask(0, 1), _everything], prompt=torch.tensor([[9, MASK]]), max_new_tokens=1)
    assert output.num_remasked.tolist() == [1]
    assert output.unmask_step.tolist() == [[-1, 2, 0]]


def test_a_position_written_in_this_step_cannot_be_remasked_in_it(decode):
    output = decode([lambda step: Decision(step.candidates, remasked=step.candidates)])
    assert output.num_forward_passes.tolist() == [1]
    assert output.num_remasked.tolist() == [0]


@pytest.mark.parametrize(("max_remasks", "expected"), [(0, 0), (1, 0), (2, 2), (5, 4), (6, 6)])
def test_the_cap_ends_every_decode(decode, max_remasks, expected):
    # A step that would exceed the cap remasks nothing of the row: two positions at a time fit two, four or six times.
    def greedy(step):
        return Decision(step.candidates, remasked=_at(step, 1, 2), revisited=torch.tensor([True]))

    output = decode([greedy], max_remasks=max_remasks)
    assert output.num_remasked.tolist() == [expected]
    assert output.sequences.tolist() == [[9, 5, 6, 7]]


def test_the_default_cap_is_eight_for_each_position_of_the_row(scripted, decode):
    def greedy(step):
        return Decision(step.candidates, remasked=step.written, revisited=torch.ones(2, dtype=torch.bool))

    prompts = torch.tensor([[9, 9], [9, MASK]])
    output = decode([greedy], prompt=prompts, script=(FIRST, SECOND), model=scripted(lambda *given: {3: 0.9}))
    assert output.num_remasked.tolist() == [16, 24]
    assert not (output.sequences == MASK).any()


@pytest.mark.parametrize(("cap", "passes", "steps"), [(2, 2, [0, 0, 0]), (3, 3, [0, 2, 0]), (4, 4, [0, 2, 0])])
def test_the_last_allowed_step_writes_everything_and_changes_nothing(decode, cap, passes, steps):
    output = decode([_everything, _remask(2), _everything, _remask(1)], max_denoising_steps=cap)
    assert output.num_forward_passes.tolist() == [passes]
    assert output.unmask_step[0, 1:].tolist() == steps
    assert output.sequences.tolist() == [[9, 5, 6, 7]]


def _end_or_word(position, context):
    """Predict the end at the first position while the second is a mask, else a word."""
    words = {1: EOS if context[2] == MASK else 5, 2: 6, 3: 7}
    return {words.get(position, 3): 0.9}


def test_a_remasked_end_opens_what_lies_behind(scripted, decode):
    plan = [lambda step: Decision(_at(step, 1), revisited=torch.tensor([True])), _remask(1)]
    plan += [lambda step: Decision(_at(step, 2, 3)), _everything]
    output = decode(plan, model=scripted(_end_or_word))
    assert [each[0].tolist() for each in output.history[1:3]] == [[9, EOS, MASK, MASK], [9, MASK, MASK, MASK]]
    assert output.sequences.tolist() == [[9, 5, 6, 7]]
    assert output.unmask_step.tolist() == [[-1, 3, 2, 2]]


def test_what_lies_behind_the_end_is_not_changed(scripted, decode):
    plan = [lambda step: Decision(_at(step, 3)), lambda step: Decision(_at(step, 1), revisited=torch.tensor([True]))]
    output = decode([*plan, _remask(3), _nothing], model=scripted(_end_or_word))
    assert output.num_remasked.tolist() == [0]
    assert output.sequences.tolist() == [[9, EOS, PAD, PAD]]
    assert output.unmask_step.tolist() == [[-1, 1, -1, -1]]
    # Behind the end nothing is looked at, either.
    rule = Planned([*plan, _remask(3)])
    decode(rule, model=scripted(_end_or_word))
    assert rule.steps[2].written.tolist() == [[False, True, False, False]]


def test_an_edit_to_the_end_drops_what_lies_behind(decode):
    output = decode([_everything, _edit(2, EOS), _nothing])
    assert output.sequences.tolist() == [[9, 5, EOS, PAD]]
    assert output.unmask_step.tolist() == [[-1, 0, 1, -1]]


def test_an_edited_position_is_written_when_its_token_last_changed(decode):
    output = decode([_everything, _edit(2, 8), _edit(2, 8), _nothing])
    assert output.sequences.tolist() == [[9, 5, 8, 7]]
    # The third step writes the token that stands there, and so changes nothing and is the last.
    assert output.unmask_step.tolist() == [[-1, 0, 1, 0]]
    assert output.num_forward_passes.tolist() == [3]
    assert output.num_remasked.tolist() == [1]


def test_edits_count_against_the_cap(decode):
    flip = [_everything, *[_edit(2, 8), _edit(2, 4)] * 10]
    output = decode(flip, max_remasks=5)
    assert output.num_remasked.tolist() == [5]
    assert output.num_forward_passes.tolist() == [7]


def test_tokens_can_be_chosen_jointly(decode):
    def jointly(step):
        return Decision(_at(step, 1, 2), torch.tensor([[0, 8, 4, 4]]))

    output = decode([jointly, _everything])
    # The third position was not selected together with the others: it gets the loop's token in the next step.
    assert output.sequences.tolist() == [[9, 8, 4, 7]]
    assert output.unmask_step.tolist() == [[-1, 0, 0, 1]]


def test_a_strategy_that_does_not_remask_may_choose_tokens_of_candidates_only(decode):
    def jointly(step):
        return Decision(_at(step, 0, 1), torch.full_like(step.sequences, 8))

    rule = Planned([jointly, lambda step: step.candidates])
    rule.remasks = False
    assert decode(rule).sequences.tolist() == [[9, 8, 6, 7]]


def test_a_position_that_the_loop_adds_gets_the_token_of_the_loop(decode):
    plan = [lambda step: Decision(step.candidates & False, torch.full_like(step.sequences, 8)), _everything]
    assert decode(plan).sequences.tolist() == [[9, 5, 6, 7]]


def test_the_mask_is_no_token_to_choose(decode):
    with pytest.raises(ValueError, match="`tokens` of a decision must not hold the mask token at a selected position"):
        decode([lambda step: Decision(step.candidates, torch.full_like(step.sequences, MASK))])


@pytest.mark.parametrize("field", ["remasked", "revisited"])
def test_a_strategy_must_say_that_it_remasks(decode, field):
    value = {"remasked": torch.ones(1, 4, dtype=torch.bool), "revisited": torch.tensor([True])}[field]
    rule = Planned([lambda step: Decision(step.candidates, **{field: value})])
    rule.remasks = False
    with pytest.raises(ValueError, match="`remasks` must be True for a strategy that remasks or revisits, got False"):
        decode(rule)


def test_a_strategy_that_returns_to_a_row_must_read_it(decode):
    rule = Planned([lambda step: Decision(step.candidates, revisited=torch.tensor([True]))])
    rule.needs = frozenset()
    with pytest.raises(
        ValueError, match="`needs` must name 'review' for a strategy that revisits, got no such need of"
    ):
        decode(rule)


@pytest.mark.parametrize(("name", "value", "plain"), [("block_cache", "dual", "'none'"), ("compile", True, "False")])
def test_a_cache_and_compilation_are_refused(decode, name, value, plain):
    with pytest.raises(ValueError, match=f"`{name}` must be {plain} for strategy 'planned', which looks at every"):
        decode([_everything], **{name: value})


@pytest.mark.parametrize("value", [-1, 1.5, True])
def test_the_cap_must_be_a_count(decode, value):
    with pytest.raises(ValueError, match=f"`max_remasks` must be an integer of at least 0, got {value}"):
        decode([_everything], max_remasks=value)


def test_a_remasked_position_of_an_earlier_block_opens_it_again(decode):
    # Blocks of one token. In the second step the first one is taken back, and is the current block again.
    rule = Planned([_everything, _remask(1), _everything, _everything, _nothing])
    output = decode(rule, block_length=1)
    assert [step.candidates[0].tolist().index(True) for step in rule.steps[:4]] == [1, 2, 1, 3]
    assert [step.block_step_index.item() for step in rule.steps[:4]] == [0, 0, 0, 0]
    assert output.unmask_step.tolist() == [[-1, 2, 1, 3]]


class Texts:
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.texts, self.drafts = [], []

    def put(self, tokens):
        self.texts.append(tokens.tolist())

    def put_draft(self, tokens):
        self.drafts.append(tokens.tolist())

    def end(self):
        self.texts.append("end")


def test_text_that_may_change_is_streamed_at_the_end_and_drafts_before(decode):
    streamer = Texts()
    decode([lambda step: Decision(_at(step, 1, 2)), _remask(2), _everything, _edit(1, 8), _nothing], streamer=streamer)
    assert streamer.texts == [[9], [8, 6, 7], "end"]
    # A remasked token is shown until another one is written, an edited one with its new token.
    assert streamer.drafts == [[5, 6, 7], [5, 6, 7], [5, 6, 7], [8, 6, 7], [8, 6, 7]]


def test_a_stopped_row_is_not_revisited(decode):
    stops = StoppingCriteriaList([lambda ids, scores: torch.tensor([bool((ids == 6).any())])])
    output = decode([_everything, _remask(1)], stopping_criteria=stops)
    assert output.num_forward_passes.tolist() == [1]
    assert output.sequences.tolist() == [[9, 5, 6, PAD]]


def test_text_that_was_taken_back_is_asked_about_again(decode):
    seen = []

    def criterion(ids, scores):
        seen.append(ids[0].tolist())
        return torch.tensor([False])

    decode([_everything, _remask(2), _everything, _nothing], stopping_criteria=StoppingCriteriaList([criterion]))
    assert seen == [[9, 5], [9, 5, 6], [9, 5, 6, 7], [9, 5, 6], [9, 5, 6, 7]]


def test_drafts_of_a_history_show_what_was_taken_back(decode, tokenizer):
    plan = [_everything, _remask(2), _everything, _nothing]
    output = decode(plan)
    assert output.drafts(tokenizer) == ["w5w6w7", "w5_w7", "w5w6w7", "w5w6w7"]
    output = decode(plan, output_history=False)
    assert output.drafts(tokenizer) == ["w5_w7", "w5_w7", "w5w6w7"]


def test_rows_do_not_wait_for_each_other(scripted, decode):
    def first_only(step):
        again = torch.tensor([len(rule.steps) < 4, False])
        return Decision(step.candidates, remasked=_at(step, 1) & torch.tensor([[True], [False]]), revisited=again)

    rule = Planned([_everything, first_only])
    output = decode(rule, prompt=torch.tensor([[9], [8]]))
    assert output.num_forward_passes.tolist() == [5, 2]
    assert output.num_remasked.tolist() == [2, 0]
    assert output.sequences[:, 1:].tolist() == [[5, 6, 7]] * 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_review_is_what_the_model_predicts_at_written_positions(dream, temperature):
    rule = Planned([lambda step: step.best(step.score("confidence"), 2), _everything])
    prompt = torch.tensor([[0, 5, 6], [7, 8, 9]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    dream.generate(prompt, mask, strategy=rule, max_new_tokens=4, temperature=temperature, seed=3, stop_at_eos=False)
    for step in rule.steps[1:]:
        full = torch.nn.functional.pad(mask, (0, 4), value=1)
        logits = dream(step.sequences, attention_mask=full).logits
        expected = torch.cat([logits[:, :1], logits[:, :-1]], dim=1).softmax(dim=-1)
        review = step.review
        assert torch.equal(step.written, (step.sequences != MASK) & (torch.arange(7) >= 3) & step.written)
        for tokens, values in ((step.sequences, review.kept_probability), (review.tokens, review.token_probability)):
            own = expected.gather(-1, tokens[..., None]).squeeze(-1)
            torch.testing.assert_close(values[step.written], own[step.written], atol=1e-5, rtol=0)
            assert not values[~step.written].any()
        if temperature == 0:
            expected[..., MASK] = 0
            assert torch.equal(review.tokens[step.written], expected.argmax(dim=-1)[step.written])


def test_processors_see_a_reviewed_position_as_a_mask(decode):
    seen = []

    def processor(ids, scores):
        seen.append(ids.tolist())
        return scores

    decode([_everything, _nothing], logits_processor=LogitsProcessorList([processor]))
    assert seen == [
        [[9, MASK, MASK, MASK]] * 3,
        [[9, MASK, 6, 7], [9, 5, MASK, 7], [9, 5, 6, MASK]],
    ]


def test_drafts_beside_remasking_are_refused(decode):
    class Drafting(Planned):
        num_versions = 3

    with pytest.raises(ValueError, match="`num_versions` must be 1 for a strategy that remasks, got 3 of 'planned'"):
        decode(Drafting([_everything]))


def test_a_penalised_end_is_reviewed_as_it_is(scripted, decode):
    rule = Planned([_everything, _everything, _nothing])
    decode(rule, model=scripted([FIRST, {EOS: 0.6, 6: 0.3}]), max_new_tokens=2, eos_penalty=1.0)
    assert rule.steps[-1].review.kept_probability[0, 1:].tolist() == pytest.approx([0.9, 0.6])


def test_a_batch_computed_row_by_row_gets_the_same_review(dream):
    prompt, mask = torch.tensor([[0, 5, 6], [7, 8, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    outputs = [
        dream.generate(
            prompt,
            mask,
            strategy="t2m",
            remask_threshold=0.5,
            max_new_tokens=6,
            return_dict_in_generate=True,
            batch_invariant=is_invariant,
        )
        for is_invariant in (False, True)
    ]
    for name in ("sequences", "unmask_step", "num_forward_passes", "num_remasked"):
        assert torch.equal(outputs[0][name], outputs[1][name])
    assert outputs[0].num_remasked.any()

"""Answers that match a constraint, whatever the strategy."""

import itertools
import json
import re
import sys

import pytest
import torch

import demask_hf
from demask_hf import strategy_names
from demask_hf.functional.restriction import completion_weights
from demask_hf.generation.constraint import automaton_of, spellings_of
from demask_hf.generation.grammar import expression_of_grammar


pytest.importorskip("outlines_core")
EOS, MASK = 2, 1
PROMPTS = [[70, 71, 72], [73, 74, 75, 76, 77], [78]]
PATTERN = r"(ab|c[0-9]+)(,(ab|c[0-9]+))*"


@pytest.fixture
def model(make_dream, make_head):
    model = make_dream(vocab_size=259)
    model.set_demask_head(make_head(model))
    return model


def _padded(prompts):
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    return ids, torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])


def _decode(model, tokenizer, prompts=PROMPTS, pattern=PATTERN, **settings):
    settings = {"max_new_tokens": 8, "return_dict_in_generate": True, "constraint": pattern, **settings}
    return model.generate(*_padded(prompts), tokenizer=tokenizer, **settings)


def _answers(output, tokenizer, num_new_tokens=8):
    return [tokenizer.decode(row[-num_new_tokens:], skip_special_tokens=True) for row in output.sequences]


# Drafts are verified with the predictions of the model alone.
DRAFTING = ("freedave", "lossless")
CASES = [(name, {}) for name in strategy_names() if name not in DRAFTING]
CASES += [("demask", {"dependencies": "exact", "dependency_bound": 0.3}), ("demask", {"dependency_bound": 2.0})]
CASES += [("t2m", {"confidence_threshold": 0.3, "remask_threshold": 0.5}), ("schedule", {"algorithm": "origin"})]


@pytest.mark.parametrize(("name", "fields"), CASES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_strategy_writes_answers_that_match(model, spelling, name, fields, temperature):
    try:
        output = _decode(model, spelling, strategy=name, temperature=temperature, seed=3, block_length=4, **fields)
    except ValueError as error:
        # Right or refused.
        assert str(error).startswith(f"`constraint` must be None for strategy {name!r}")  # noqa: PT017
        return
    for answer in _answers(output, spelling):
        assert re.fullmatch(PATTERN, answer), answer
    assert not (output.sequences == MASK).any()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["demask", "threshold"])
def test_a_row_of_a_batch_equals_the_row_alone(model, spelling, name, temperature):
    settings = {"strategy": name, "temperature": temperature}
    together = _decode(model, spelling, seed=[4, 5, 6], **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = _decode(model, spelling, [prompt], seed=4 + row, **settings)
        assert together.sequences[row, -8:].tolist() == alone.sequences[0, -8:].tolist()
        assert together.num_forward_passes[row] == alone.num_forward_passes[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_denoising_steps": 1},
        {"eos_penalty": float("inf")},
        {"stop_at_eos": False},
        {"temperature": 1.0, "top_k": 1},
        {"temperature": 0.5, "top_p": 0.3, "scores": "sampled"},
        {"batch_invariant": True},
        {"suppress_tokens": [3 + 64]},
    ],
)
def test_settings_keep_the_match(model, spelling, settings):
    output = _decode(model, spelling, strategy="threshold", seed=1, **settings)
    for row in output.sequences[:, -8:].tolist():
        text = row[: row.index(EOS)] if EOS in row else row
        assert re.fullmatch(PATTERN, spelling.decode(text))


def test_one_step_writes_the_most_probable_answer(scripted, spelling):
    known = {token: bytes(text) for token, text in spellings_of(spelling).items()}
    token_of = {text: token for token, text in known.items()}
    letters = [token_of[b"a"], token_of[b"b"]]
    script = [{letters[0]: 0.5, letters[1]: 0.4, EOS: 0.1}] * 2 + [{letters[0]: 0.6, letters[1]: 0.2, EOS: 0.2}]
    model = scripted(script, vocab_size=259)
    pattern, scores = "(ab|ba*)", {}
    for answer in itertools.product([*letters, EOS], repeat=3):
        end = answer.index(EOS) if EOS in answer else 3
        text = b"".join(known[token] for token in answer[:end]).decode()
        if re.fullmatch(pattern, text):
            scores[text] = 1.0
            for place, token in enumerate(answer[: end + 1]):
                scores[text] *= script[place][token]
    best = max(scores, key=scores.get)
    ids = torch.tensor([[letters[0]]])
    out = model.generate(
        *(ids, None),
        strategy="threshold",
        max_new_tokens=3,
        max_denoising_steps=1,
        constraint=pattern,
        tokenizer=spelling,
    )
    assert spelling.decode(out[0, 1:], skip_special_tokens=True) == best


def test_the_strategy_sees_the_marginals(scripted, spelling, seeing):
    token_of = {text: token for token, text in spellings_of(spelling).items()}
    a, b = token_of[b"a"], token_of[b"b"]
    model = scripted([{a: 0.3, b: 0.6, EOS: 0.1}, {a: 0.2, b: 0.5, EOS: 0.3}], vocab_size=259)
    seen = seeing(demask_hf.make_strategy("demask", dependencies="exact"))
    settings = {"max_new_tokens": 2, "constraint": "ab|ba", "tokenizer": spelling}
    model.generate(torch.tensor([[a]]), strategy=seen, **settings)
    found = seen.steps[0].probabilities
    # "ab" has 0.3 * 0.5, "ba" 0.6 * 0.2.
    assert found[0, a] == pytest.approx(0.15 / 0.27)
    assert found[0, b] == pytest.approx(0.12 / 0.27)
    assert found[1, b] == pytest.approx(0.15 / 0.27)
    assert found.sum(dim=-1).tolist() == pytest.approx([1, 1])
    # The two positions depend on each other through the constraint alone.
    assert found[0, EOS] == 0


def test_measured_dependencies_include_those_of_the_constraint(scripted, spelling):
    token_of = {text: token for token, text in spellings_of(spelling).items()}
    a, b = token_of[b"a"], token_of[b"b"]
    model = scripted([{a: 0.5, b: 0.5}, {a: 0.5, b: 0.5}], vocab_size=259)
    settings = {"max_new_tokens": 2, "tokenizer": spelling, "return_dict_in_generate": True, "strategy": "demask"}
    settings |= {"dependencies": "exact", "dependency_bound": 0.2}
    free = model.generate(torch.tensor([[a]]), **settings)
    bound = model.generate(torch.tensor([[a]]), constraint="ab|ba", **settings)
    assert free.num_forward_passes.tolist() == [1]
    assert bound.num_forward_passes.tolist() == [2]


def test_masks_in_the_prompt_are_free(model, spelling):
    output = _decode(model, spelling, [[70, MASK, 72]], strategy="threshold")
    assert not (output.sequences == MASK).any()
    assert re.fullmatch(PATTERN, _answers(output, spelling)[0])


def test_json_follows_a_schema(model, spelling):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    output = _decode(model, spelling, pattern={"json_schema": schema}, max_new_tokens=12, strategy="threshold")
    for answer in _answers(output, spelling, 12):
        assert isinstance(json.loads(answer)["n"], int)


@pytest.mark.parametrize(
    "pattern", ["(ab)+", "(ab)*c?", "a?b+", "(a|bc){2}", "[abc]*", "", "a|ab|abc", "(a|ab)(c|bc)*"]
)
def test_exactly_what_matches_is_accepted(scripted, spelling, pattern):
    token_of = {text: token for token, text in spellings_of(spelling).items()}
    automaton = automaton_of(pattern, spelling, 259, [EOS])
    for length in range(6):
        for letters in itertools.product("abc", repeat=length):
            tokens = torch.tensor([[*(token_of[each.encode()] for each in letters), EOS]])
            found = completion_weights(automaton, automaton.fixed_weights(tokens), False)[0, 0, automaton.initial]
            assert (found == 0) == (re.fullmatch(pattern, "".join(letters)) is not None), letters


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ('START: WORD ("," WORD)*\nWORD: "ab" | "c"', "(ab|c)(,(ab|c))*"),
        ('START: A~1..2 [B] /b+/\nA: "a".."b"\nB: "c"', "[ab]{1,2}c?b+"),
        ('START: "a"+ // as often as one likes', "a+"),
    ],
)
def test_a_grammar_of_terminals_is_a_regular_expression(spelling, grammar, pattern):
    pytest.importorskip("lark")
    found = re.compile(expression_of_grammar(grammar))
    token_of = {text: token for token, text in spellings_of(spelling).items()}
    automaton = automaton_of({"grammar": grammar}, spelling, 259, [EOS])
    for length in range(6):
        for letters in map("".join, itertools.product("abc,", repeat=length)):
            tokens = torch.tensor([[*(token_of[each.encode()] for each in letters), EOS]])
            weight = completion_weights(automaton, automaton.fixed_weights(tokens), False)[0, 0, automaton.initial]
            assert (weight == 0) == (re.fullmatch(pattern, letters) is not None), letters
            assert (found.fullmatch(letters) is not None) == (re.fullmatch(pattern, letters) is not None), letters


def test_answers_follow_a_grammar(model, spelling):
    pytest.importorskip("lark")
    output = _decode(model, spelling, pattern={"grammar": 'START: "x" DIGIT (" - " DIGIT)*\nDIGIT: "0".."9"'})
    assert all(re.fullmatch("x[0-9]( - [0-9])*", answer) for answer in _answers(output, spelling))


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        ('START: "(" START? ")"', "Recursion in terminal 'START'"),
        ('START: A\nA: "x" B\nB: "y" A | "z"', "Recursion in terminal 'A'"),
        ('start: "a" start?', r"without rules \(lower case\) and %ignore, which need more than finitely many states"),
        ('START: "a"\n?other.2: "b" other', r"without rules \(lower case\)"),
        ('START: "a"\n%ignore " "', "and %ignore"),
        ('START: "a"*', "Lexer does not allow zero-width terminals"),
        ('A: "b"', "Rule 'START' used but not defined"),
        ("START: (", "Expecting a value"),
    ],
)
def test_other_grammars_are_refused(grammar, reason):
    pytest.importorskip("lark")
    with pytest.raises(
        ValueError, match="`constraint` must hold a grammar of terminals .* begins with START.*" + reason
    ):
        expression_of_grammar(grammar)


def test_the_missing_package_of_grammars_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lark", None)
    with pytest.raises(ImportError, match='needs the package lark: pip install "demask-hf\\[constraints\\]"'):
        expression_of_grammar('START: "a"')


def test_tokens_of_several_words_are_spelled():
    _, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM)
    known = spellings_of(tokenizer)
    assert known[tokenizer.convert_tokens_to_ids("bill: ")] == b"bill: "
    assert tokenizer.eos_token_id not in known


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pattern": 5},
            "`constraint` must be a regular expression, or a dict with one of regex, json_schema, grammar, got 5",
        ),
        ({"pattern": {"yaml": "a"}}, "`constraint` must be a regular expression, or a dict with one of"),
        ({"pattern": {"regex": 5}}, "`constraint` must hold a text as 'regex', got 5."),
        (
            {"pattern": {"json_schema": 5}},
            "`constraint` must hold JSON, as a text or a dict, as 'json_schema', got 5.",
        ),
        ({"pattern": {"grammar": 5}}, "`constraint` must hold a text as 'grammar', got 5."),
        ({"pattern": {"json_schema": {"type": "color"}}}, "`constraint` must hold a supported JSON schema, got"),
        ({"pattern": "("}, "`constraint` must be a regular expression without look-around"),
        ({"pattern": "a)(b"}, "`constraint` must be a regular expression without look-around"),
        ({"pattern": "^a$"}, "`constraint` must be a regular expression without look-around"),
        ({"pattern": "a{9}"}, r"`constraint` must have a match within `max_new_tokens` \(8\), got one whose shortest"),
        ({"pattern": "a", "suppress_tokens": [67]}, "`constraint` must have a match of tokens that may be written"),
        ({"pattern": "a", "max_new_tokens": 0}, "`constraint` must have a match within"),
        ({"block_cache": "prefix"}, "`block_cache` must be 'none' with `constraint`"),
        ({"compile": True}, "`compile` must be False with `constraint`"),
        ({"stop_strings": "a"}, "`stop_strings` must be None with `constraint`"),
    ],
)
def test_what_cannot_work_is_refused(model, spelling, settings, message):
    token = {text: token for token, text in spellings_of(spelling).items()}[b"a"]
    if "suppress_tokens" in settings:
        settings = {**settings, "suppress_tokens": [token]}
    with pytest.raises(ValueError, match=message):
        _decode(model, spelling, strategy="threshold", **settings)


def test_a_tokenizer_is_needed(model):
    with pytest.raises(ValueError, match="`tokenizer` must be given with `constraint`, got None"):
        _decode(model, None)


def test_a_tokenizer_whose_tokens_have_no_text_of_their_own_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="`tokenizer` must be byte-level, or give a token the same text everywhere"):
        _decode(model, tokenizer)


def test_the_missing_package_is_named(model, spelling, monkeypatch):
    monkeypatch.setitem(sys.modules, "outlines_core", None)
    with pytest.raises(ImportError, match='needs the package outlines-core: pip install "demask-hf\\[constraints\\]"'):
        _decode(model, spelling, pattern="never compiled before")


def test_without_an_end_the_length_must_match(model, spelling):
    ids = torch.tensor([PROMPTS[0]])
    settings = {"tokenizer": spelling, "max_new_tokens": 4, "strategy": "threshold", "suppress_tokens": [EOS]}
    output = model.generate(ids, constraint="(ab)+", **settings)
    assert spelling.decode(output[0, -4:]) == "abab"
    with pytest.raises(ValueError, match=r"`constraint` must have a match of exactly `max_new_tokens` \(4\)"):
        model.generate(ids, constraint="aba", **settings)


def test_a_strategy_that_edits_is_refused(model, spelling):
    with pytest.raises(ValueError, match="`constraint` must be None for strategy 't2m' with these fields"):
        _decode(model, spelling, strategy="t2m", rule="t2t", confidence_threshold=0.1, editing_threshold=0.01)


def test_a_processor_that_leaves_no_completion_is_reported(model, spelling):
    token = {text: token for token, text in spellings_of(spelling).items()}[b"a"]

    def forbid(ids, scores):
        return scores.index_fill(-1, torch.tensor([token]), float("-inf"))

    with pytest.raises(ValueError, match="`constraint` must leave a completion of every answer, got none"):
        _decode(model, spelling, pattern="ab", strategy="threshold", logits_processor=[forbid])


@pytest.mark.parametrize("name", DRAFTING)
def test_drafts_are_refused(dream, tokenizer, name):
    message = f"`constraint` must be None for strategy '{name}', whose drafts are verified with the model's own"
    with pytest.raises(ValueError, match=message):
        dream.generate(torch.tensor([[3]]), strategy=name, constraint="w3", tokenizer=tokenizer, max_new_tokens=4)

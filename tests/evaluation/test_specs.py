import re

import pytest

from demask_hf.evaluation.specs import Setting, field_of, parse_settings, spec_of, strategy_of
from demask_hf.generation.configuration import setting_names
from demask_hf.strategies import make_strategy


def test_a_text_with_lists_of_values_is_a_grid_in_their_order():
    settings = parse_settings("demask:dependency_bound=0.03/0.06,rule=total")
    assert [setting.strategy for setting in settings] == [
        {"name": "demask", "dependency_bound": bound, "rule": "total"} for bound in (0.03, 0.06)
    ]
    assert {setting.row for setting in settings} == {"demask:rule=total"}
    assert settings[1].label == "demask:dependency_bound=0.06,rule=total"
    assert parse_settings(settings[1].label)[0].strategy == settings[1].strategy


def test_slashes_in_quotes_separate_no_values():
    settings = parse_settings('table:table="runs/pairs.json",dependency_bound=0.03/0.06')
    assert [setting.strategy for setting in settings] == [
        {"name": "table", "table": "runs/pairs.json", "dependency_bound": bound} for bound in (0.03, 0.06)
    ]
    assert {setting.row for setting in settings} == {'table:table="runs/pairs.json"'}
    text = spec_of({"name": "table", "table": "runs/pairs.json", "order": "influence"})
    assert parse_settings(text)[0].strategy == {"name": "table", "table": "runs/pairs.json", "order": "influence"}
    assert parse_settings(text)[0].reference().build().dependency_bound == 0


def test_two_lists_are_crossed():
    settings = parse_settings("klass:confidence_threshold=0.9/0.8,kl_threshold=0.001/0.01")
    pairs = [(setting.strategy["confidence_threshold"], setting.strategy["kl_threshold"]) for setting in settings]
    assert pairs == [(0.9, 0.001), (0.9, 0.01), (0.8, 0.001), (0.8, 0.01)]


def test_arguments_of_generate_stand_beside_the_fields_and_before_the_shared_ones():
    (setting,) = parse_settings("schedule:max_denoising_steps=16", {"temperature": 1.0, "max_denoising_steps": 3})
    assert setting.strategy == {"name": "schedule"}
    assert setting.options == {"temperature": 1.0, "max_denoising_steps": 16}


def test_keys_tell_settings_apart_and_no_more():
    first, again, other, sampled = (
        parse_settings(text, shared)[0]
        for text, shared in (
            ("demask:rule=total,dependency_bound=0.1", {}),
            ("demask:dependency_bound=0.1,rule=total", {}),
            ("demask:dependency_bound=0.2,rule=total", {}),
            ("demask:dependency_bound=0.1,rule=total", {"temperature": 1.0}),
        )
    )
    assert first.key == again.key
    assert len({first.key, other.key, sampled.key}) == 3


def test_a_reference_names_no_defaults():
    """Else a new field of the strategy would give the reference another key, and its records would not be found."""
    (setting,) = parse_settings("demask:order=influence,rule=total")
    assert setting.reference().strategy == {
        "name": "demask",
        "dependency_bound": 0.0,
        "rule": "total",
        "order": "influence",
    }


@pytest.mark.parametrize(
    ("text", "temperature", "score"),
    [
        ("demask", 1.0, "confidence"),
        ("demask:order=token_probability", 1.0, "token_probability"),
        ("demask:order=token_probability", 0.0, "confidence"),
        ("threshold", 1.0, "token_probability"),
        ("threshold", None, "confidence"),
        ("entropy_bound", 1.0, "entropy"),
        ("klass", 1.0, "confidence"),
        ("schedule:algorithm=topk_margin,max_denoising_steps=8", 1.0, "margin"),
        ("schedule:algorithm=origin", 1.0, "random"),
        ("sequential:order=left_to_right", 1.0, "left_to_right"),
    ],
)
def test_the_reference_has_the_same_order_and_draws(text, temperature, score):
    options = {} if temperature is None else {"temperature": temperature}
    reference = parse_settings(text, {**options, "top_p": 0.9})[0].reference()
    assert reference.strategy == {"name": "sequential", "order": score}
    assert reference.options == {**options, "top_p": 0.9}
    assert reference.reference() == reference


def test_the_reference_of_a_walk_by_influence_is_the_walk_with_a_bound_of_0():
    (setting,) = parse_settings("demask:order=influence,rule=total,dependency_bound=0.2,temperature=1")
    reference = setting.reference()
    assert reference.label == "demask:dependency_bound=0.0,rule=total,order=influence"
    assert reference.strategy["dependency_bound"] == 0
    assert reference.options == {"temperature": 1}
    assert reference.reference() == reference


def test_values_are_read_as_json_or_else_as_text():
    assert [field_of(text) for text in ("a=1", "b=true", "c=total", "d=null")] == [
        ("a", 1),
        ("b", True),
        ("c", "total"),
        ("d", None),
    ]


def test_one_strategy_is_read_as_name_and_fields():
    assert strategy_of("klass") == {"name": "klass"}
    assert strategy_of("klass:kl_threshold=0.01,history_length=3") == {
        "name": "klass",
        "kl_threshold": 0.01,
        "history_length": 3,
    }


@pytest.mark.parametrize("name", ["threshold", "demask", "schedule"])
@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("max_new_tokens", "4", 4),
        ("max_length", "9", 9),
        ("block_length", "2", 2),
        ("scores", "sampled", "sampled"),
        ("max_denoising_steps", "3", 3),
        ("temperature", "0.5", 0.5),
        ("top_p", "0.9", 0.9),
        ("top_k", "5", 5),
        ("do_sample", "false", False),
        ("repetition_penalty", "1.2", 1.2),
        ("bad_words_ids", "[[3]]", [[3]]),
        ("suppress_tokens", "[3,4]", [3, 4]),
        ("stop_strings", '["a","b"]', ["a", "b"]),
        ("max_time", "1.5", 1.5),
        ("stop_at_eos", "false", False),
        ("eos_penalty", "inf", float("inf")),
        ("max_remasks", "3", 3),
        ("block_cache", "dual", "dual"),
        ("cache_refresh_interval", "2", 2),
        ("cache_commits_first", "true", True),
        ("compile", "reduce-overhead", "reduce-overhead"),
        ("compile", '{"dynamic": true, "fullgraph": false}', {"dynamic": True, "fullgraph": False}),
        ("batch_invariant", "true", True),
        ("output_history", "true", True),
        ("mask_token_id", "1", 1),
        ("pad_token_id", "0", 0),
        ("bos_token_id", "2", 2),
        ("eos_token_id", "[2,3]", [2, 3]),
        ("max_remasks", "5", 5),
        ("constraint", '"[0-9]+"', "[0-9]+"),
    ],
)
def test_every_setting_of_generate_may_be_given(name, field, text, value):
    (setting,) = parse_settings(f"{name}:{field}={text}")
    assert (setting.strategy, setting.options) == ({"name": name}, {field: value})
    (setting,) = parse_settings(f"{name}:{field}={text},block_length=4")
    assert setting.options == {field: value, "block_length": 4}


def test_all_settings_are_in_the_list_above():
    (mark,) = (mark for mark in test_every_setting_of_generate_may_be_given.pytestmark if mark.args[0] != "name")
    tested = {field for field, _, _ in mark.args[1]}
    assert tested == set(setting_names()) - {"strategy", "seed", "return_dict_in_generate", "num_return_sequences"}


def test_values_of_a_setting_make_a_grid():
    settings = parse_settings("threshold:block_cache=none/prefix/dual,block_length=4")
    assert [setting.options["block_cache"] for setting in settings] == ["none", "prefix", "dual"]
    assert {setting.row for setting in settings} == {"threshold:block_length=4"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("demask:bound=1", "`bound` must be a field of strategy 'demask' or an argument of generate, got an unknown"),
        ("demask:rule", "`FIELD=VALUE` must be the form of a field of a strategy, got 'rule'"),
        ("dmask", "`strategy` must be a registered name, got 'dmask'"),
        ("demask:dependency_bound=0.1/-1", "`dependency_bound` must be a number in"),
        ("demask:block_cahce=dual", "`block_cahce` must be a field of strategy 'demask' or .*; nearest: block_cache"),
        ("demask:block_cache=both", "`block_cache` must be one of none, prefix, dual, exact, got 'both'"),
        ("demask:top_p=0.9/1.5", "`top_p` must be a number in"),
        ("demask:seed=1", "`seed` must be left out of a setting, got one: evaluation sets it itself."),
        ("demask:strategy=x", "`strategy` must be left out of a setting"),
    ],
)
def test_bad_texts_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_settings(text)


def test_shared_settings_are_checked_too():
    with pytest.raises(ValueError, match="`temperature` must be a number in"):
        parse_settings("demask", {"temperature": -1})


def test_a_setting_builds_its_strategy():
    assert Setting("", "", {"name": "demask", "rule": "max"}).build().rule == "max"


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        ({"name": "threshold"}, "threshold"),
        (make_strategy("klass").to_dict(), "klass"),
        ({"name": "schedule", "algorithm": "origin", "eps": 0.01}, "schedule:algorithm=origin,eps=0.01"),
        ({"name": "demask", "symmetric": False, "rule": "max"}, None),
    ],
)
def test_the_text_of_a_strategy_is_read_as_that_strategy(strategy, text):
    found = spec_of(strategy)
    assert text in (None, found)
    assert make_strategy(**strategy_of(found)) == make_strategy(**strategy)


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "nul\0", ".hidden", "x" * 5_000, "a/b\\c", "*?[", "", "\ud800", "CON:"]
)
def test_no_name_of_a_strategy_is_a_path(name, tmp_path):
    setting = Setting("row", "label", {"name": name})
    assert re.fullmatch(r"\w{0,40}-[0-9a-f]{12}", setting.key, re.ASCII)
    file = tmp_path / f"{setting.key}-0.jsonl"
    file.touch()
    assert list(tmp_path.iterdir()) == list(tmp_path.glob(f"{setting.key}-*.jsonl")) == [file]
    assert Setting("row", "label", {"name": f"{name}_"}).key != setting.key

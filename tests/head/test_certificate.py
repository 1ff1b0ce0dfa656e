"""A head's certificate: what it does to the default bound, when it warns, and how it is written."""

import json
import logging

import pytest
import torch
from transformers import AutoModel

from demask_hf import DemaskConfig, DemaskGenerationConfig, DemaskHead, make_strategy
from demask_hf.cli.main import main
from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.strategies.demask import DEFAULT_DEPENDENCY_BOUND


PROMPT = torch.tensor([[5, 6, 7]])
ISSUED = {
    "dependency_bound": 0.6,
    "risk": "tv",
    "epsilon": 0.05,
    "rule": "token",
    "symmetric": False,
    "order": "confidence",
    "confidence_threshold": 0.0,
    "temperature": 1.0,
    "top_p": None,
    "top_k": None,
    "scores": "model",
    "block_length": 6,
    "block_cache": "none",
    "cache_refresh_interval": None,
    "cache_commits_first": False,
    "eos_penalty": 0.0,
    "backbone_revision": None,
}


@pytest.fixture
def certified(dream_with_wide_head, make_dream, make_head):
    """Return a random Dream whose head has a certificate."""
    model = make_dream()
    model.set_demask_head(make_head(model))
    model.demask_head.load_state_dict(dream_with_wide_head.demask_head.state_dict())
    model.demask_head.config.certificate = dict(ISSUED)
    return model


@pytest.fixture
def warnings(monkeypatch, caplog):
    """Return the messages of the logger, each once as in a session of its own."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    logger = logging.getLogger("demask_hf.head.certificate")
    type(logger).warning_once.cache_clear() if hasattr(type(logger).warning_once, "cache_clear") else None
    return lambda: [record.getMessage() for record in caplog.records if "certificate" in record.getMessage()]


def _decode(model, **kwargs):
    settings = {"strategy": "demask", "max_new_tokens": 6, "temperature": 1.0, "seed": 3, "stop_at_eos": False}
    return model.generate(PROMPT, return_dict_in_generate=True, **{**settings, **kwargs}).unmask_step.tolist()


def test_the_certified_bound_is_the_default(certified):
    expected = _decode(certified, dependency_bound=0.6)
    assert _decode(certified) == expected
    certified.demask_head.config.certificate = None
    assert _decode(certified) != expected
    assert _decode(certified) == _decode(certified, dependency_bound=DEFAULT_DEPENDENCY_BOUND)


def test_an_explicit_bound_and_one_of_the_generation_config_come_first(certified):
    small = _decode(certified, dependency_bound=0.0)
    assert small != _decode(certified)
    certified.generation_config = DemaskGenerationConfig(strategy="demask", dependency_bound=0.0)
    assert _decode(certified, strategy=None) == _decode(certified) == small
    assert _decode(certified, dependency_bound=0.6) != small
    # Only the rule stands in the checkpoint: the bound is still the certified one.
    certified.generation_config = DemaskGenerationConfig(strategy="demask", rule="token")
    assert certified.generation_config.strategy["dependency_bound"] is None
    assert _decode(certified, strategy=None) == _decode(certified, dependency_bound=0.6, strategy="demask")


def test_a_strategy_object_does_not_keep_what_another_head_said(certified, make_dream, make_head):
    rule = make_strategy("demask")
    rule.bind(certified)
    assert rule.limit == 0.6
    other = make_dream()
    other.set_demask_head(make_head(other))
    rule.bind(other)
    assert rule.limit == DEFAULT_DEPENDENCY_BOUND
    assert rule.to_dict()["dependency_bound"] is None
    assert make_strategy("demask", dependency_bound=0.2).limit == 0.2


def test_measured_dependencies_have_no_certificate(certified):
    rule = make_strategy("demask", dependencies="exact")
    rule.bind(certified)
    assert rule.certificate is None
    assert rule.limit == DEFAULT_DEPENDENCY_BOUND


def test_other_settings_are_named_once(certified, warnings):
    _decode(certified)
    _decode(certified, dependency_bound=0.6)
    assert warnings() == []
    for _ in range(2):
        _decode(certified, temperature=0.25, rule="total")
    (message,) = warnings()
    assert "rule 'total' instead of 'token'" in message
    assert "temperature 0.25 instead of 1.0" in message
    assert "order" not in message


def test_a_certificate_without_a_selection_is_for_the_walk(certified, warnings):
    _decode(certified, selection="walk")
    assert warnings() == []
    _decode(certified, selection="partition")
    (message,) = warnings()
    assert "selection 'partition' instead of 'walk'" in message


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"top_p": 0.5}, "top_p 0.5 instead of None"),
        ({"top_k": 7}, "top_k 7 instead of None"),
        ({"scores": "sampled"}, "scores 'sampled' instead of 'model'"),
        ({"block_cache": "prefix"}, "block_cache 'prefix' instead of 'none'"),
        (
            {"block_cache": "prefix", "cache_refresh_interval": 2},
            "block_cache 'prefix' instead of 'none', cache_refresh_interval 2 instead of None",
        ),
        (
            {"block_cache": "dual", "cache_commits_first": True},
            "block_cache 'dual' instead of 'none', cache_commits_first True instead of False",
        ),
        ({"eos_penalty": 2.5}, "eos_penalty 2.5 instead of 0.0"),
        ({"block_length": 3}, "block_length 3 instead of 6"),
        ({"order": "entropy"}, "order 'entropy' instead of 'confidence'"),
        ({"symmetric": True}, "symmetric True instead of False"),
        ({"confidence_threshold": 0.125}, "confidence_threshold 0.125 instead of 0.0"),
        ({"dependency_bound": 0.75}, "dependency_bound 0.75 instead of 0.6"),
    ],
)
def test_every_setting_of_the_certificate_is_compared(certified, warnings, kwargs, expected):
    _decode(certified, **kwargs)
    (message,) = warnings()
    assert message.endswith(f"got {expected}.")


def test_revisions_are_compared_where_both_are_known(certified, warnings):
    certified.demask_head.config.certificate["backbone_revision"] = "abc"
    _decode(certified)
    assert warnings() == []
    certified.config._commit_hash = "def"
    _decode(certified)
    assert "backbone_revision 'def' instead of 'abc'" in warnings()[0]


def test_other_strategies_have_nothing_to_say(certified, warnings):
    _decode(certified, strategy="threshold", temperature=0.0)
    assert warnings() == []


def test_the_certificate_travels_with_the_head(certified, tmp_path):
    certified.demask_head.save_pretrained(tmp_path)
    assert DemaskHead.from_pretrained(tmp_path).config.certificate == ISSUED
    assert AutoModel.from_pretrained(tmp_path).config.certificate == ISSUED


def test_heads_of_older_versions_have_no_certificate(certified, tmp_path):
    certified.demask_head.save_pretrained(tmp_path)
    facts = json.loads((tmp_path / "config.json").read_text())
    del facts["certificate"]
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert DemaskHead.from_pretrained(tmp_path).config.certificate is None


@pytest.mark.parametrize("bound", [None, -0.1, "0.1", True, float("nan")])
def test_a_certificate_needs_a_bound(bound):
    with pytest.raises(ValueError, match="`certificate` must hold a `dependency_bound` of at least 0, got"):
        DemaskConfig(certificate={"dependency_bound": bound})


@pytest.fixture
def calibrate(dream_with_wide_head, tokenizer, tmp_path, capsys):
    """Return a function that runs `demask-hf calibrate` on a file of prompts."""
    dream_with_wide_head.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    DemaskGenerationConfig(max_new_tokens=4).save_pretrained(tmp_path / "model")
    dream_with_wide_head.demask_head.save_pretrained(tmp_path / "head")
    (tmp_path / "prompts.txt").write_text("".join(f"w{number} w5\n" for number in range(3, 23)), encoding="utf-8")

    def run(*arguments):
        paths = ["--model", tmp_path / "model", "--head", tmp_path / "head", "--file", tmp_path / "prompts.txt"]
        code = main(["calibrate", *map(str, [*paths, "--work", tmp_path / "work", "--device", "cpu", *arguments])])
        return code, *capsys.readouterr()

    return run


def _config(folder):
    return json.loads((folder / "config.json").read_text())


def test_calibrate_writes_the_certificate_into_the_head(calibrate, tmp_path, dream_with_wide_head, tokenizer):
    before = (tmp_path / "head" / "model.safetensors").read_bytes()
    code, out, err = calibrate("--epsilon", "0.3", "--bounds", "0.6", "0", "0.3")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines()[:-1]] == ["0", "0.3", "0.6"][: len(out.splitlines()) - 1]
    certificate = _config(tmp_path / "head")["certificate"]
    assert certificate["dependency_bound"] in (0.0, 0.3, 0.6)
    assert f"wrote dependency_bound {certificate['dependency_bound']:g} with its certificate" in out
    expected = {"risk": "tv", "epsilon": 0.3, "delta": 0.1, "num_prompts": 20, "test": "fixed-sequence", "seed": 0}
    expected |= {"rule": "token", "order": "confidence", "temperature": 1.0, "top_p": None, "block_length": 4}
    assert {name: certificate[name] for name in expected} == expected
    assert len(certificate["data_sha256"]) == 64
    assert certificate["date"].count("-") == 2
    assert (tmp_path / "head" / "model.safetensors").read_bytes() == before
    # The loaded head decodes with it.
    model = AutoModel.from_pretrained(tmp_path / "model")
    model.load_demask_head(str(tmp_path / "head"))
    settings = {"strategy": "demask", "seed": 0, "max_new_tokens": 4, "temperature": 1.0}
    bound = certificate["dependency_bound"]
    ours, theirs = (
        decode_prompts(model, tokenizer, ["w3 w4"], **settings, **kwargs)[0].unmask_steps
        for kwargs in ({}, {"dependency_bound": bound})
    )
    assert ours == theirs


def test_calibrate_writes_a_copy(calibrate, tmp_path):
    (tmp_path / "head" / "README.md").write_text("a card")
    before = (tmp_path / "head" / "config.json").read_text()
    risk = ("--risk", "disagreement", "--temperature", "0", "--epsilon", "0.5", "--test", "bonferroni")
    code, _, err = calibrate(*risk, "--bounds", "0", "0.1", "--out", tmp_path / "copy")
    assert code == 0, err
    assert (tmp_path / "head" / "config.json").read_text() == before
    assert _config(tmp_path / "copy")["certificate"]["risk"] == "disagreement"
    assert (tmp_path / "copy" / "README.md").read_text() == "a card"
    assert DemaskHead.from_pretrained(tmp_path / "copy").config.certificate["test"] == "bonferroni"


def test_calibrating_a_certified_head_again_gives_the_same(calibrate, tmp_path):
    arguments = ("--epsilon", "0.3", "--bounds", "0", "0.3")
    first = calibrate(*arguments)[1]
    certificate = _config(tmp_path / "head")["certificate"]
    code, out, err = calibrate(*arguments)
    assert (code, out) == (0, first), err
    assert _config(tmp_path / "head")["certificate"] == certificate
    assert len(list((tmp_path / "work").glob("*.jsonl"))) == 1


def test_nothing_certified_leaves_the_head_alone(calibrate, tmp_path):
    before = (tmp_path / "head" / "config.json").read_text()
    code, out, err = calibrate("--epsilon", "0.01", "--bounds", "0")
    assert code == 2
    assert out == "bound 0      mean loss 0.0000  p 0.818  not certified\n"
    message = "demask-hf: error: no bound can be certified, the head is unchanged: at 0 the mean loss of 20 prompts is"
    assert err.splitlines()[-1].startswith(message)
    assert (tmp_path / "head" / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epsilon", "1"), "`--epsilon` must be a number in (0, 1), got 1.0."),
        (("--delta", "0"), "`--delta` must be a number in (0, 1), got 0.0."),
        (("--test", "none"), "`test` must be one of fixed-sequence, bonferroni, got 'none'."),
        (("--bounds", "-1"), "`--bounds` must be a number in [0, inf), got -1.0."),
        (("--bounds", "0.1", "0.1"), "`bounds` must be different numbers of at least 0, got [0.1, 0.1]."),
        (("--risk", "none"), "`risk` must be one of tv, disagreement, task, got 'none'."),
        (("--risk", "task"), "`prompts` must be examples of task families for the risk 'task', got texts."),
        (("--temperature", "0"), "`temperature` must be above 0 to measure total variation, got 0"),
        (("--set", "dependencies=exact"), "`dependencies` must be 'head' to calibrate a head, got 'exact'."),
        (("--head", "org/name"), "`--out` must be given for a head that is not in a folder, got the repository"),
    ],
)
def test_bad_input_is_one_sentence(calibrate, arguments, message):
    code, out, err = calibrate(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"demask-hf: error: {message}")


def test_the_shipped_head_and_adapters_are_left_alone(calibrate, tmp_path, capsys):
    assert main(["calibrate"]) == 2
    assert "`--out` must be given for the shipped head, which is not changed." in capsys.readouterr().err
    assert main(["calibrate", "--model", "./none"]) == 2
    assert "`--head` must be given to calibrate, got none." in capsys.readouterr().err
    (tmp_path / "head" / "adapter_config.json").write_text("{}")
    assert "`--head` must be a whole head to calibrate, got the adapter" in calibrate()[2]

"""What several commands share: model, strategy and decoding."""

import json
from dataclasses import fields
from importlib import import_module

import pytest
from accelerate import PartialState

import demask_hf
from demask_hf import DemaskGenerationConfig
from demask_hf.cli.main import main
from demask_hf.cli.options import DecodingOptions, ModelOptions, SeededDecodingOptions


def test_set_reaches_every_strategy_that_has_the_field(generate):
    _, out, _ = generate("w3", "--json", "--compare", "threshold", "demask", "--set", "confidence_threshold=0.25")
    assert [json.loads(line)["strategy"]["confidence_threshold"] for line in out.splitlines()] == [0.25, 0.25]


@pytest.mark.parametrize(("head", "name"), [(True, "demask"), (False, "threshold")])
def test_the_default_strategy_depends_on_the_head(generate, head, name):
    assert json.loads(generate("w3", "--json", head=head)[1])["strategy"]["name"] == name


@pytest.mark.parametrize(("head", "name"), [(True, "demask"), (False, "schedule")])
def test_the_default_strategy_is_that_of_generate(folders, tokenizer, tmp_path, capsys, head, name):
    model, _ = demask_hf.load_model(folders["--model"], folders["--head"] if head else None, device="cpu")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # As on the Hub for Dream, with more steps than there are tokens.
    settings = {"alg": "maskgit_plus", "steps": 512, "eps": 0.01, "alg_temp": None, "temperature": 0.0}
    (tmp_path / "generation_config.json").write_text(json.dumps({**settings, "max_new_tokens": 8}))
    paths = ["--model", str(tmp_path), *(["--head", folders["--head"]] if head else [])]
    assert main(["generate", "w3 w4", "--json", "--device", "cpu", *paths]) == 0
    found = json.loads(capsys.readouterr().out)
    model = demask_hf.load_model(str(tmp_path), folders["--head"] if head else None, device="cpu")[0]
    ids = tokenizer("w3 w4", return_tensors="pt")
    output = model.generate(**ids, return_dict_in_generate=True)
    assert found["strategy"]["name"] == name
    assert found["num_forward_passes"] == output.num_forward_passes.item() <= 8
    assert found["tokens"] == output.sequences[0, 2 : 2 + len(found["tokens"])].tolist()
    if not head:
        assert (found["strategy"]["algorithm"], found["strategy"]["eps"]) == ("maskgit_plus", 0.01)


def test_compare_leaves_demask_out_without_a_head(generate):
    rows = generate("w3 w4", "--compare", head=False)[1].splitlines()[2:]
    assert [row.split()[0] for row in rows] == [
        name for name in demask_hf.strategy_names() if name not in ("demask", "edit")
    ]


def test_decoding_options_reach_generate(generate):
    options = ("--no-stop-at-eos", "--max-new-tokens", "6", "--block-length", "2", "--top-k", "5", "--top-p", "0.9")
    found = json.loads(generate("w3", "--json", *options)[1])
    assert found["num_tokens"] == 6
    capped = json.loads(generate("w3", "--json", *options, "--max-denoising-steps", "1")[1])
    assert capped["num_forward_passes"] == 1


LOADING = ("generate", "watch", "profile", "demo", "collect", "train", "evaluate", "benchmark", "verify", "calibrate")


@pytest.mark.parametrize("command", LOADING)
def test_every_command_that_loads_a_model_can_spread_it(command):
    dests = {
        action.dest for action in import_module(f"demask_hf.cli.{command.replace('-', '_')}").make_parser()._actions
    }
    assert {field.name for field in fields(ModelOptions)} <= dests


def test_settings_are_those_of_the_generation_config():
    names = {field.name for field in fields(DecodingOptions)}
    assert names <= set(DemaskGenerationConfig().__dict__)
    assert DecodingOptions().settings() == {}
    given = {"max_new_tokens": 6, "top_p": 0.9, "stop_at_eos": False, "block_cache": "dual", "compile": "default"}
    assert SeededDecodingOptions(seed=3, **given).settings() == given


def test_the_shipped_checkpoint_stands_in_for_a_model_that_is_not_named():
    assert ModelOptions().model_or_shipped == demask_hf.TINY_DREAM
    assert ModelOptions().head_or_shipped == demask_hf.TINY_DEMASK
    assert ModelOptions().public_model == "demask_hf.TINY_DREAM"
    assert ModelOptions(head="mine").head_or_shipped == "mine"
    assert ModelOptions(model="org/name").head_or_shipped is None
    assert ModelOptions(model="org/name").public_model == "org/name"


def test_model_options_reach_load_model(monkeypatch):
    given = []
    monkeypatch.setattr("demask_hf.models.loading.load_model", lambda *arguments: given.append(arguments))
    options = ModelOptions(
        "org/name", "head", device_map="auto", dtype="bfloat16", revision="main", quantization="int8"
    )
    options.load(options.head_or_shipped, is_shared=True)
    assert given == [("org/name", "head", None, "auto", "bfloat16", "main", "int8")]


def test_every_process_of_several_has_a_device_of_its_own(monkeypatch):
    given = []
    monkeypatch.setattr("demask_hf.models.loading.load_model", lambda name, head, device, *rest: given.append(device))
    ModelOptions().load(None)
    ModelOptions(device="cpu").load(None, is_shared=True)
    ModelOptions().load(None, is_shared=True)
    assert given[:2] == [None, "cpu"]
    assert given[2] == str(PartialState().device)


def test_a_device_map_decodes_the_same(generate):
    expected = generate("w3 w4")[1]
    code, out, err = generate("w3 w4", "--device-map", "auto", device=None)
    assert (code, out) == (0, expected), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device-map", "auto"], "`accelerate` must be installed for a `device_map`: pip install accelerate."),
        (["--device-map", "auto", "--device", "cpu"], "`device` must be None with a `device_map`, got 'cpu'"),
    ],
)
def test_bad_loading_is_one_sentence(generate, monkeypatch, arguments, message):
    monkeypatch.setattr("demask_hf.models.loading.is_accelerate_available", lambda: False)
    code, out, err = generate("w3 w4", *arguments, device=None)
    assert (code, out) == (2, "")
    assert err.startswith("demask-hf: error: ")
    assert message in err
    assert len(err.splitlines()) == 1

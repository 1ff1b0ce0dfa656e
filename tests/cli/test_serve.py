"""`demask-hf serve`: what it listens to and loads; tests/serve starts it."""

import sys
from types import SimpleNamespace

import pytest

import demask_hf
from demask_hf.cli import main
from demask_hf.cli.options import DecodingOptions, ModelOptions, StrategyOptions
from demask_hf.cli.serve import ServerOptions, served_model


def test_defaults_come_from_the_checkpoint():
    served = served_model(ServerOptions(), StrategyOptions(), DecodingOptions(), ModelOptions(device="cpu"))
    assert served.name == "demask_hf.TINY_DREAM"
    assert served.settings == {"max_new_tokens": 32}
    assert served.max_length == 512
    assert served.strategy is None
    assert served.model.demask_head is not None


def test_options_are_defaults_of_requests():
    strategy = StrategyOptions(strategy="threshold", set=["confidence_threshold=0.7"])
    options = (ServerOptions(name="mine", max_length=64), strategy, DecodingOptions(max_new_tokens=16))
    served = served_model(*options, ModelOptions(model=demask_hf.TINY_DREAM, device="cpu"))
    assert (served.name, served.max_length) == ("mine", 64)
    assert served.settings == {"max_new_tokens": 16}
    assert served.strategy.to_dict() == {"name": "threshold", "confidence_threshold": 0.7, **_rest(served)}


def _rest(served):
    fields = served.strategy.to_dict()
    return {name: fields[name] for name in fields if name not in ("name", "confidence_threshold")}


def test_the_key_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("DEMASK_API_KEY", raising=False)
    assert ServerOptions().api_key() is None
    monkeypatch.setenv("DEMASK_API_KEY", "from outside")
    assert ServerOptions().api_key() == "from outside"
    (tmp_path / "key").write_text("s3cret\nanother line\n")
    assert ServerOptions(api_key_file=str(tmp_path / "key")).api_key() == "s3cret"
    (tmp_path / "key").write_text("\n")
    with pytest.raises(ValueError, match="`api_key_file` must hold a key in its first line"):
        ServerOptions(api_key_file=str(tmp_path / "key")).api_key()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "`port` must be in [0, 65535], got 70000."),
        (["--max-rows", "0"], "`max_rows` must be an integer of at least 1, got 0."),
        (["--max-length", "0"], "`max_length` must be an integer of at least 1, got 0."),
        (["a", "--model", "b"], "`model` must be named once, got 'a' and 'b'."),
        (["--compile"], "`compile` must be left out of a server"),
    ],
)
def test_bad_options_are_refused(capsys, arguments, message):
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    pytest.importorskip("fastapi", reason="needs the extra serve")
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    assert main(["serve", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve"]) == 2
    assert "`uvicorn` must be installed for demask-hf serve: pip install demask-hf[serve]." in capsys.readouterr().err


@pytest.mark.parametrize(("host", "warns"), [("127.0.0.1", False), ("::1", False), ("0.0.0.0", True)])
def test_an_address_that_others_reach_is_warned_of(capsys, monkeypatch, host, warns):
    pytest.importorskip("fastapi", reason="needs the extra serve")
    pytest.importorskip("prometheus_client", reason="needs the extra serve")
    monkeypatch.delenv("DEMASK_API_KEY", raising=False)
    started = {}
    monkeypatch.setitem(sys.modules, "uvicorn", SimpleNamespace(run=lambda app, **options: started.update(options)))
    assert main(["serve", "--host", host, "--device", "cpu"]) == 0
    assert started["host"] == host
    assert ("warning" in capsys.readouterr().err) == warns

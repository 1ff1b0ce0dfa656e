"""Work that Ray shares: the same results with any number of workers, also when one is killed."""

import json
import os
import signal
from unittest.mock import MagicMock

import pytest

from demask_hf import DemaskGenerationConfig
from demask_hf.cli.main import main
from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.models.loading import load_model


ray = pytest.importorskip("ray", reason="needs ray: pip install demask-hf[ray]")
pytest.importorskip("ray.data", reason="needs ray: pip install demask-hf[ray]")

import pyarrow  # noqa: E402

from demask_hf.ray import Decoder, decode_batches, map_tables  # noqa: E402


PROMPTS = [f"w{number} w{number + 1}" for number in range(3, 15)]


@pytest.fixture(scope="module")
def cluster():
    try:
        # Two workers, whatever the machine has.
        ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except Exception as error:
        if "timed out" not in str(error):
            raise
        pytest.skip("needs a machine on which Ray starts within its half minute")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dream, tokenizer):
    folder = tmp_path_factory.mktemp("model")
    dream.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    DemaskGenerationConfig(max_new_tokens=6, stop_at_eos=False).save_pretrained(folder)
    return folder


def test_a_decoder_is_called_with_tables_that_it_can_use(folder):
    decoder = Decoder(str(folder), loading={"device": "cpu"}, strategy="sequential")
    with pytest.raises(TypeError, match=r"`batch` must be a table of pyarrow .*, got dict\."):
        decoder({"prompt": PROMPTS})
    with pytest.raises(ValueError, match="`batch` must have a column `prompt`, got text"):
        decoder(pyarrow.table({"text": PROMPTS}))
    with pytest.raises(ValueError, match=r"`max_new_tokens` must be one value in a table, got \[3, 4\]"):
        decoder(pyarrow.table({"prompt": PROMPTS[:2], "max_new_tokens": [3, 4]}))
    table = decoder(pyarrow.table({"prompt": PROMPTS[:2], "max_new_tokens": [3, 3], "name": ["a", "b"]}))
    assert table["name"].to_pylist() == ["a", "b"]
    assert [len(tokens) for tokens in table["tokens"].to_pylist()] == [3, 3]


def test_a_decoder_refuses_wrong_settings_before_it_loads():
    with pytest.raises(ValueError, match="confidence_threshold"):
        Decoder("./none", strategy="threshold", confidence_threshold=2.0)


def test_nothing_is_mapped_without_tables_or_workers():
    assert list(map_tables(Decoder, {}, [])) == []
    with pytest.raises(ValueError, match="`num_workers` must be"):
        list(map_tables(Decoder, {}, [], 0))


def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch):
    def init(**arguments):
        raise Exception("The current node timed out during startup. This could happen.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(OSError, match=r"Ray cannot start: The current node timed out during startup\. This could"):
        list(map_tables(Decoder, {}, [pyarrow.table({"prompt": PROMPTS})]))


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ray.exceptions.RayTaskError("f", "trace", ValueError("`x` must be y.")), ValueError, r"^`x` must be y\.$"),
        (
            ray.exceptions.RayError("Trace\n  ValueError: gone"),
            OSError,
            "^workers of Ray cannot go on: ValueError: gone$",
        ),
    ],
)
def test_what_workers_raise_is_one_sentence(monkeypatch, raised, kind, message):
    dataset = MagicMock()
    dataset.map_batches.return_value.iter_batches.side_effect = raised
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 2.0})
    monkeypatch.setattr(ray.data, "from_arrow", lambda tables: dataset)
    with pytest.raises(kind, match=message):
        list(map_tables(Decoder, {}, [pyarrow.table({"prompt": PROMPTS})] * 3))
    given = dataset.map_batches.call_args.kwargs
    assert given["num_gpus"] == 1
    assert "num_cpus" not in given


def test_a_killed_worker_loses_nothing(cluster, folder, tmp_path, monkeypatch):
    flag = tmp_path / "killed"

    class Mortal(Decoder):
        """Dies once, in the middle of the work."""

        def __call__(self, batch):
            if batch["seed"][0].as_py() == 6 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    # A class that this test makes travels to the workers by value.
    monkeypatch.setattr("demask_hf.ray.Decoder", Mortal)
    settings = {"strategy": {"name": "threshold", "confidence_threshold": 0.3}, "temperature": 2.0}
    seeds = list(range(len(PROMPTS)))
    batches = [(PROMPTS[start : start + 3], seeds[start : start + 3]) for start in range(0, len(PROMPTS), 3)]
    arguments = {"model": str(folder), "loading": {"device": "cpu"}, **settings}
    found = [each for batch in decode_batches(arguments, batches, num_workers=2) for each in batch]
    assert flag.exists()
    expected = decode_prompts(*load_model(str(folder), device="cpu"), PROMPTS, seed=seeds, **settings)
    assert [vars(each) | {"seconds": 0} for each in found] == [vars(each) | {"seconds": 0} for each in expected]


@pytest.mark.slow
def test_commands_write_the_same_with_ray(cluster, folder, tmp_path, capsys):
    data = tmp_path / "train.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt, "answer": "w5 w6"}) + "\n" for prompt in PROMPTS))
    model = ("--model", str(folder), "--device", "cpu")
    collect = ("--num-states", "20", "--states-per-shard", "8", "--state-batch-size", "3", "--data", str(data))
    evaluate = ("--task", "pairs", "--num-prompts", "5", "--seeds", "2", "--batch-size", "4", "--temperature", "1")
    generate = (*PROMPTS[:5], "--batch-size", "2", "--temperature", "2", "--json")
    printed = {}
    for engine in (("--engine", "local"), ("--engine", "ray", "--workers", "2")):
        out = tmp_path / engine[1]
        assert main(["collect", *model, *collect, *engine, "--out", str(out / "states")]) == 0
        assert main(["evaluate", *model, *evaluate, *engine, "--out", str(out / "runs")]) == 0
        capsys.readouterr()
        assert main(["generate", *generate, *model, *engine]) == 0
        lines = capsys.readouterr().out.splitlines()
        lines += [line for file in sorted((out / "runs").glob("*.jsonl")) for line in file.read_text().splitlines()]
        printed[engine[1]] = [json.loads(line) | {"seconds": 0} for line in lines]
    assert printed["ray"] == printed["local"]
    assert len(printed["ray"]) == 5 + 10
    names = sorted(file.name for file in (tmp_path / "local" / "states").iterdir() if not file.name.startswith("."))
    assert len(names) == 3 + 2
    for name in names:
        assert (tmp_path / "ray" / "states" / name).read_bytes() == (tmp_path / "local" / "states" / name).read_bytes()

"""lm-evaluation-harness with a local task file and local data, against our own evaluation."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.evaluation.decoding import decode_prompts
from demask_hf.evaluation.records import evaluate
from demask_hf.tasks import load_task


lm_eval = pytest.importorskip("lm_eval", reason="needs lm-eval: pip install demask-hf[harness]")
if not Path(demask_hf.TINY_DREAM, "config.json").exists() or not Path(demask_hf.TINY_DEMASK, "config.json").exists():
    pytest.skip("needs the shipped checkpoint, which `make tiny` writes", allow_module_level=True)

from lm_eval.tasks import TaskManager  # noqa: E402

from demask_hf.harness.model import DemaskLM  # noqa: E402


TINY = {"pretrained": demask_hf.TINY_DREAM, "head": demask_hf.TINY_DEMASK}
NUM_PROMPTS = 6
TASK = """
task: local_pairs
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
process_results: !function judge.process_results
generation_kwargs:
  until: []
  do_sample: false
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
JUDGE = """
from demask_hf.tasks import FAMILIES


def process_results(doc, results):
    return {"acc": float(FAMILIES["pairs"].check(doc["prompt"], results[0]))}
"""


@pytest.fixture(scope="module")
def task():
    return load_task("pairs", num_examples=NUM_PROMPTS)


@pytest.fixture(scope="module")
def task_folder(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    data = folder / "pairs.jsonl"
    rows = [{"prompt": example.prompt, "answer": example.answer} for example in task.examples]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "local_pairs.yaml").write_text(TASK.format(data=data))
    (folder / "judge.py").write_text(JUDGE)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tiny():
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    return model, AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)


def _request(text, **settings):
    return SimpleNamespace(args=(text, settings))


@pytest.mark.parametrize(
    ("settings", "batch_size"),
    [
        ({"strategy": "demask"}, 1),
        ({"strategy": "demask", "dependency_bound": 0.5}, 4),
        ({"strategy": "threshold", "confidence_threshold": 0.7, "temperature": 1.0, "seed": 3}, 4),
    ],
)
def test_the_harness_gets_the_answers_and_the_accuracy_of_our_evaluation(
    settings, batch_size, tiny, task, task_folder
):
    records = evaluate(*tiny, task, **settings)
    manager = TaskManager(include_path=str(task_folder), include_defaults=False)
    results = lm_eval.simple_evaluate(
        "demask",
        model_args={**TINY, **settings},
        batch_size=batch_size,
        device="cpu",
        tasks=["local_pairs"],
        task_manager=manager,
        bootstrap_iters=0,
    )
    samples = sorted(results["samples"]["local_pairs"], key=lambda sample: sample["doc_id"])
    assert [sample["resps"][0][0] for sample in samples] == [record.answer for record in records]
    accuracy = sum(record.is_correct for record in records) / NUM_PROMPTS
    assert results["results"]["local_pairs"]["acc,none"] == pytest.approx(accuracy)
    assert accuracy > 0


def test_the_command_runs_the_harness_with_the_class_registered(task_folder, tmp_path):
    arguments = {
        "--model": "demask",
        "--model_args": ",".join(f"{name}={value}" for name, value in TINY.items()),
        "--tasks": "local_pairs",
        "--include_path": str(task_folder),
        "--limit": "2",
        "--batch_size": "2",
        "--device": "cpu",
        "--output_path": str(tmp_path / "out"),
    }
    command = [
        sys.executable,
        "-m",
        "demask_hf.harness",
        "run",
        *(word for pair in arguments.items() for word in pair),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (written,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(written.read_text())["results"]["local_pairs"]["sample_len"] == 2


def test_settings_of_the_task_hold_where_none_is_given(tiny, task):
    prompt = task.examples[0].prompt
    requests = [_request(prompt, until=[], max_gen_toks=8), _request(prompt, until=["+"]), _request(prompt, until=[])]
    short, cut, whole = DemaskLM(**TINY).generate_until(requests, disable_tqdm=True)
    (expected,) = decode_prompts(*tiny, [prompt], "demask", max_new_tokens=8, temperature=0.0)
    assert short == expected.answer
    assert cut == whole.split("+")[0]
    given = DemaskLM(**TINY, max_new_tokens=8).generate_until(requests[::2], disable_tqdm=True)
    assert given == [short, short]


def test_the_default_strategy_needs_no_head(task):
    request = _request(task.examples[0].prompt, until=[])
    without = {name: value for name, value in TINY.items() if name != "head"}
    (named,) = DemaskLM(**without, strategy="threshold").generate_until([request], disable_tqdm=True)
    assert DemaskLM(**without).generate_until([request], disable_tqdm=True) == [named]


def test_bad_settings_are_refused(task):
    with pytest.raises(ValueError, match=r"`batch_size` must be a whole number of at least 1, got 'auto'\."):
        DemaskLM(**TINY, batch_size="auto")
    request = _request(task.examples[0].prompt, until=[], num_beams=4)
    with pytest.raises(ValueError, match="`num_beams` must be"):
        DemaskLM(**TINY).generate_until([request], disable_tqdm=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"strateg": "demask"},
            r"`strateg` must be an argument of generate or a field of the strategy, .* nearest: str",
        ),
        ({"strategy": "klas"}, r"`strategy` must be a registered name, got 'klas'; nearest: klass\."),
        ({"dependency_bond": 0.1}, r"`dependency_bond` must be .* nearest: dependency_bound"),
        ({"num_beams": 4}, r"`num_beams` must be 1 for decoding by unmasking, got 4"),
        ({"temperature": -1}, r"`temperature` must be a number in \[0, inf\), got -1\."),
        ({"gen_length": 8}, r"`gen_length` must be given as `max_new_tokens`, got 8\."),
    ],
)
def test_unknown_arguments_are_refused_before_anything_is_loaded(monkeypatch, arguments, message):
    monkeypatch.setattr("demask_hf.harness.model.load_model", lambda *args, **kwargs: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match=message):
        DemaskLM(**TINY, **arguments)


def test_the_default_strategy_is_that_of_the_model_settings(tiny, task, tmp_path):
    tiny[0].save_pretrained(tmp_path)
    tiny[1].save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text('{"alg": "entropy", "steps": 3, "max_new_tokens": 12}')
    prompt = task.examples[0].prompt
    (found,) = DemaskLM(str(tmp_path)).generate_until([_request(prompt, until=[])], disable_tqdm=True)
    named = {"strategy": "schedule", "max_denoising_steps": 3, "max_new_tokens": 12}
    assert found == decode_prompts(*tiny, [prompt], **named)[0].answer


def test_an_adapter_is_loaded(tiny, task, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft")
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=2))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    adapted.save_pretrained(tmp_path)
    request = _request(task.examples[0].prompt, until=[], max_gen_toks=12)
    arguments = {"pretrained": demask_hf.TINY_DREAM, "strategy": "sequential"}
    (found,) = DemaskLM(**arguments, peft=str(tmp_path)).generate_until([request], disable_tqdm=True)
    settings = {"strategy": "sequential", "max_new_tokens": 12}
    (expected,) = decode_prompts(adapted.get_base_model(), tiny[1], [request.args[0]], **settings)
    assert found == expected.answer
    assert DemaskLM(**arguments).generate_until([request], disable_tqdm=True) != [found]


def test_likelihoods_are_refused():
    model = DemaskLM(**TINY)
    for refused in (model.loglikelihood, model.loglikelihood_rolling):
        with pytest.raises(NotImplementedError, match="`tasks` must be tasks that generate text"):
            refused([])


def test_chat_templates_are_the_tokenizers(monkeypatch):
    model = DemaskLM(**TINY)
    template = "{% for turn in messages %}<{{ turn.content }}>{% endfor %}{% if add_generation_prompt %}:{% endif %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert model.apply_chat_template(turns[:1]) == "<a>:"
    assert model.apply_chat_template(turns, add_generation_prompt=False) == "<a><b"
    assert model.chat_template(True) == template
    assert model.chat_template(False) is None
    assert "/" not in model.tokenizer_name

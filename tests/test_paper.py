"""The paper's comparison at its smallest: a random Dream, two made-up questions a task, no claim about accuracy."""

import importlib
import json
from pathlib import Path

import pytest
import torch

import demask_hf
from demask_hf.tasks import isolation


pytest.importorskip("lm_eval", reason="needs lm-eval: pip install demask-hf[harness]")
TOKENIZER = Path(__file__).parents[2] / "shared" / "data" / "dream-tokenizer"
if not TOKENIZER.is_dir():
    pytest.skip("needs Dream's tokenizer in ../shared/data/dream-tokenizer", allow_module_level=True)
if not isolation()["files"]:
    pytest.skip("needs a system that confines programs", allow_module_level=True)

QUESTIONS = {
    "gsm8k_cot": {"test": [{"question": f"How much is {k} + 3?", "answer": f"#### {k + 3}"} for k in (2, 4)]},
    "humaneval_instruct": {
        "test": [
            {
                "task_id": f"HumanEval/{number}",
                "prompt": f"import math\n\n\ndef up(x):\n    '''Round up, {number}.'''\n",
                "entry_point": "up",
                "canonical_solution": "    return math.ceil(x)\n",
                "test": "def check(candidate):\n    assert candidate(1.5) == math.ceil(1.5)\n",
            }
            for number in range(2)
        ]
    },
    "mbpp_instruct": {
        "test": [
            {
                "task_id": 11 + task,
                "text": f"Write a function that adds two numbers, {task}.",
                "code": "def add(a, b):\n    return a + b",
                "test_list": [f"assert add({number}, 1) == {number + 1}" for number in range(3)],
            }
            for task in range(2)
        ]
    },
    "mmlu_pro_math": {
        split: [
            {
                "question": f"How much is {number} + 1?",
                "options": ["4", "5"],
                "answer": "B",
                "cot_content": "A: Let's think step by step. The answer is (B).",
                "category": "math",
            }
            for number in range(count)
        ]
        for split, count in (("test", 2), ("validation", 5))
    },
}


@pytest.fixture(scope="module")
def paper():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    yield importlib.import_module("paper")
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model, a head, and the questions of each task."""
    folder = tmp_path_factory.mktemp("paper")
    torch.manual_seed(0)
    fields = json.loads((TOKENIZER / "config.json").read_text())
    ids = {name: fields[name] for name in ("vocab_size", "mask_token_id", "pad_token_id", "eos_token_id")}
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = demask_hf.DreamConfig(**ids, **sizes, num_attention_heads=2, num_key_value_heads=1)
    demask_hf.DreamModel(config).save_pretrained(folder / "model")
    demask_hf.DreamTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder / "model")
    head = demask_hf.DemaskConfig(backbone_hidden_size=16, width=8)
    demask_hf.DemaskHead(head).save_pretrained(folder / "head")
    for task, splits in QUESTIONS.items():
        (folder / task).mkdir()
        for split, rows in splits.items():
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def _arguments(folder, out, *tasks):
    arguments = [
        "--model",
        str(folder / "model"),
        "--head",
        str(folder / "head"),
        "--out",
        str(out),
        "--device",
        "cpu",
    ]
    arguments += ["--bounds", "0.05", "--thresholds", "0.5", "--tasks", *(f"{task}=4" for task in tasks)]
    return [*arguments, "--data", *(f"{task}={folder / task}" for task in tasks)]


def test_the_paper_is_reproduced_in_small_and_goes_on(paper, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper, "BASELINES", paper.BASELINES[:1])
    arguments = [*_arguments(folder, tmp_path, *QUESTIONS), "--allow-code-execution"]
    paper.main(arguments)
    report = (tmp_path / "report.md").read_text()
    rows = json.loads((tmp_path / "report.json").read_text())["tasks"]
    assert list(rows) == list(QUESTIONS)
    for own in rows.values():
        labels = [row["label"] for row in own]
        assert labels[0] == paper.REFERENCE
        assert labels[-1] == "demask:dependency_bound=0.05,confidence_threshold=0.5"
        assert len(labels) == 3
        assert own[0]["mean_forward_passes"] == 4
    assert "| schedule:algorithm=entropy,2 tokens a pass |" in report
    monkeypatch.setattr(paper, "decode_prompts", None)
    capsys.readouterr()
    paper.main(arguments)
    assert "answers" not in capsys.readouterr().out.split("# DEMASK")[0]


def test_programs_are_run_only_if_allowed(paper, folder, tmp_path):
    with pytest.raises(ValueError, match="`--allow-code-execution` must be given for humaneval_instruct"):
        paper.main(_arguments(folder, tmp_path, "humaneval_instruct"))


def test_a_task_of_unknown_length_is_refused(paper, tmp_path, capsys):
    with pytest.raises(SystemExit):
        paper.main(["--model", "x", "--out", str(tmp_path), "--tasks", "ifeval"])
    assert "--tasks must name the length of an answer, TASK=LENGTH, got ifeval." in capsys.readouterr().err


def test_one_prompt_is_no_comparison(paper, tmp_path, capsys):
    with pytest.raises(SystemExit):
        paper.main(["--model", "x", "--out", str(tmp_path), "--limit", "1"])
    assert "--limit must be at least 2, got 1." in capsys.readouterr().err


def test_programs_are_judged_shut_in(paper):
    judge = paper.ConfinedCode("confined")
    question = QUESTIONS["humaneval_instruct"]["test"][0]
    tests = f"{question['test']}\ncheck(up)"
    right, wrong = question["prompt"] + question["canonical_solution"], question["prompt"] + "    return 0\n"
    assert judge.compute([tests, tests], [[right], [wrong]], [1]) == ({"pass@1": 0.5}, {})
    assert judge.compute(["assert add(1, 1) == 2"], [["def add(a, b):\n    return a + b"]], [1]) == ({"pass@1": 1}, {})

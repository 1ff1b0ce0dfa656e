"""What holds over many calls: threads, exchanged heads, kept memory and files, and commands that are killed."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from demask_hf.strategies import strategy_names


PROMPT = torch.tensor([[5, 6, 7]])


def _answer(model, **settings):
    output = model.generate(PROMPT, max_new_tokens=8, return_dict_in_generate=True, **settings)
    return output.sequences[0].tolist(), output.unmask_step[0].tolist()


def test_a_call_uses_one_head_while_others_exchange_it(make_dream, make_head):
    model = make_dream()
    heads = [make_head(model), make_head(model)]
    with torch.no_grad():
        heads[1].scorer.bias.fill_(2.5)
    alone = []
    for head in heads:
        model.set_demask_head(head)
        alone.append(_answer(model, strategy="demask", dependency_bound=0.5))
    assert alone[0] != alone[1]

    def exchanged(number):
        model.set_demask_head(heads[number % 2])
        return _answer(model, strategy="demask", dependency_bound=0.5)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(exchanged, range(64)))
    assert all(answer in alone for answer in answers)


def test_threads_with_different_strategies_get_their_own_answers(make_dream, make_head):
    model = make_dream()
    model.set_demask_head(make_head(model))
    expected = {name: _answer(model, strategy=name) for name in strategy_names()}
    with ThreadPoolExecutor(8) as threads:
        names = [name for name in strategy_names() for _ in range(6)]
        answers = list(threads.map(lambda name: _answer(model, strategy=name), names))
    assert answers == [expected[name] for name in names]


def _kept():
    gc.collect()
    tensors = sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())
    return tensors, len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0


@pytest.mark.parametrize("strategy", strategy_names())
def test_calls_keep_neither_tensors_nor_files(dream_with_head, strategy):
    _answer(dream_with_head, strategy=strategy)
    before = _kept()
    for seed in range(12):
        _answer(dream_with_head, strategy=strategy, temperature=1.0, seed=seed)
    assert _kept() == before


def _records(folder):
    lines = [line for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()]
    found = [json.loads(line) for line in lines]
    # How long a prompt took differs from run to run.
    for one in found:
        one.pop("seconds")
    return sorted(found, key=json.dumps)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "--strategy", "sequential"),
        ("benchmark", "--num-validation", "0", "--compare", "sequential", "threshold"),
    ],
    ids=lambda command: command[0],
)
def test_a_killed_comparison_repeats_and_loses_nothing(command, tmp_path):
    arguments = [sys.executable, "-m", "demask_hf", *command, "--task", "pairs", "--num-prompts", "12"]
    arguments += ["--batch-size", "1", "--temperature", "1", "--device", "cpu", "--out"]
    subprocess.run([*arguments, str(tmp_path / "whole")], check=True, capture_output=True)
    broken = tmp_path / "broken"
    for num_lines in (2, 5, 8):
        process = subprocess.Popen([*arguments, str(broken)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and sum(f.read_bytes().count(b"\n") for f in broken.rglob("*.jsonl")) < num_lines:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*arguments, str(broken)], check=True, capture_output=True)
    assert _records(broken) == _records(tmp_path / "whole")

import json
import threading
import time

import pytest
import torch
from torch import nn

import demask_hf
from demask_hf.cli.main import main
from demask_hf.generation.profiling import PARTS, StepProfile, _Clock, profile_steps


PROMPTS = torch.tensor([[5, 6, 7], [8, 9, 10]])


def test_parts_exclude_what_runs_within_them(monkeypatch):
    moments = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(moments))
    clock = _Clock(torch.device("cpu"))
    with clock.part("selection"), clock.part("head"):
        pass
    clock.end_step()
    assert clock.steps == [{"backbone": 0, "lm_head": 0, "head": 3.0, "selection": 2.0 + 4.0, "rest": 1.0 + 5.0}]


def test_medians_and_shares_follow_from_the_steps():
    steps = [dict.fromkeys(PARTS, 0.0) | {"backbone": seconds, "rest": 1.0} for seconds in (1.0, 2.0, 6.0)]
    profile = StepProfile(steps)
    assert profile.median_seconds("backbone") == 2.0
    assert profile.share("backbone") == 9.0 / 12.0
    assert profile.median_step_seconds == 3.0
    # Of the medians, which stand beside them, and not of the sums.
    lines = [line.split() for line in profile.table().splitlines()]
    assert lines[1] == ["backbone", "2000.000", "66.7%"]
    assert lines[-2:] == [["rest", "1000.000", "33.3%"], ["sum", "3000.000", "100.0%"]]


@pytest.mark.parametrize("arguments", [{}, {"block_cache": "dual", "block_length": 3}], ids=["exact", "dual"])
@pytest.mark.parametrize("strategy", ["demask", "threshold", "klass"])
def test_every_step_of_every_run_is_measured(dream_with_head, strategy, arguments):
    arguments = {"strategy": strategy, "max_new_tokens": 6, **arguments}
    passes = dream_with_head.generate(PROMPTS, return_dict_in_generate=True, **arguments).num_forward_passes
    profile = profile_steps(dream_with_head, PROMPTS, num_runs=2, **arguments)
    assert len(profile.steps) == 2 * passes.max()
    for step in profile.steps:
        assert all(step[part] > 0 for part in PARTS if part != "head")
        assert (step["head"] > 0) == (strategy == "demask")


def test_the_model_is_left_as_it_was(dream_with_head):
    profile_steps(dream_with_head, PROMPTS, num_runs=1, max_new_tokens=2)
    modules = [dream_with_head, dream_with_head.model, dream_with_head.demask_head]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_the_forwards_of_other_threads_are_not_measured(make_dream, monkeypatch):
    model, entered = make_dream(), []
    enter = _Clock.enter
    monkeypatch.setattr(
        _Clock, "enter", lambda clock, part: (entered.append(threading.get_ident()), enter(clock, part))
    )

    def run_beside(*unused):
        if threading.get_ident() == threading.main_thread().ident:
            other = threading.Thread(target=lambda: model(PROMPTS))
            other.start()
            other.join(60)

    model.model.layers[0].register_forward_hook(run_beside)
    profile_steps(model, PROMPTS, num_runs=1, max_new_tokens=2, strategy="threshold")
    assert set(entered) == {threading.main_thread().ident}


def test_a_model_without_a_body_has_its_output_layer_in_the_backbone(scripted):
    model = scripted([{5: 1.0}, {6: 1.0}])
    profile = profile_steps(model, torch.tensor([[9]]), num_runs=1, max_new_tokens=2, strategy="sequential")
    assert isinstance(model, nn.Module)
    assert all(step["backbone"] > 0 and step["lm_head"] == 0 for step in profile.steps)


def test_at_least_one_run_is_needed(dream):
    with pytest.raises(ValueError, match="`num_runs` must be an integer of at least 1, got 0"):
        profile_steps(dream, PROMPTS, num_runs=0)


def test_the_command_prints_a_table(capsys):
    assert (
        main(["profile", "pairs: =07, =12, =05, =18, =03, =11 -> ", "--num-runs", "1", "--block-cache", "dual"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["part", *PARTS, "sum"]
    assert lines[-1].endswith("100.0%")


def test_the_command_prints_every_step_as_json(capsys):
    arguments = ["profile", "pairs: =07, =12, =05, =18, =03, =11 -> ", "--num-runs", "1", "--json"]
    assert (
        main([*arguments, "--strategy", "sequential", "--max-new-tokens", "4", "--head", demask_hf.TINY_DEMASK]) == 0
    )
    steps = json.loads(capsys.readouterr().out)
    assert len(steps) == 4
    assert set(steps[0]) == set(PARTS)

"""Recorded outputs of public decoders, see `goldens/README.md`."""

import hashlib
import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest


FOLDER = Path(__file__).parent / "goldens"
NUM_NEW_TOKENS = 24
FILES = [
    "R1_dream_official",
    "R1_fastdllm_cache",
    "R1_fastdllm_threshold",
    "R1_klass",
    "R1_llada",
    "R1_eoser",
    "R1_dawn",
    "R1_dawn_wide",
    "R1_freedave",
    "R1_freedave_base",
    "R1_prophet",
    "Tsoft_freedave",
    "Tsoft_prophet",
    "T_dream_official_ties",
    "T_fastdllm_cache",
    "T_fastdllm_cache_ties",
    "T_fastdllm_threshold",
    "T_klass_ties",
    "T_dawn",
    "T_dawn_ties",
    "Tsoft_dream_official",
    "Tsoft_fastdllm_threshold",
    "Tsoft_klass",
]
# Of the trained checkpoint's cases and of those with a cache, the default run takes every sixth; all are run with
# `-m "slow or not slow"`.
SAMPLE_EVERY = 6


@cache
def _recorded(name):
    return json.loads((FOLDER / f"{name}.json").read_text())


def _cases():
    for name in FILES:
        known = [case for case in _recorded(name)["cases"] if _arguments(case["settings"]) is not None]
        # Where the public code of DAWN rewrote the prompt, see `goldens/README.md`, it went another way from there.
        known = [case for case in known if not case.get("overwritten")]
        for index, case in enumerate(known):
            is_sampled = (name.startswith("R1") and "cache" not in name) or index % SAMPLE_EVERY == 0
            marks = [] if is_sampled else [pytest.mark.slow]
            yield pytest.param(name, case, id=f"{name}-{case['id']}", marks=marks)


def _arguments(settings):
    """Return the arguments of `generate` for recorded settings, or `None` if they name no rule of ours."""
    if "decoding_alg" in settings:
        return _freedave_arguments(settings)
    if "analyze_gap" in settings:
        limits = settings["early_exit_thresholds"]
        rule = {"early_gap": limits["early"], "middle_gap": limits["mid"], "late_gap": limits["late"]}
        rule |= {"inner": {"name": "schedule", "algorithm": "maskgit_plus", "plan": "llada"}}
        rule |= {"answer_start": settings["answer_start_pos"], "max_denoising_steps": settings["steps"]}
        return {"strategy": "prophet", **rule, "block_length": settings["block_length"]}
    return _other_arguments(settings)


def _other_arguments(settings):
    """Return the arguments for settings of neither FreeDave nor Prophet."""
    if settings.get("alg") in ("eoser", "ass", "eoser_ass"):
        rule = {"algorithm": "maskgit_plus", "plan": "ass" if "ass" in settings["alg"] else "llada"}
        if "eoser" in settings["alg"]:
            rule |= {"start": settings["eos_min_gamma"], "end": settings["eos_max_gamma"]}
        name = "eoser" if "eoser" in settings["alg"] else "schedule"
        rule |= {"max_denoising_steps": settings["steps"], "eos_token_id": settings["eos_token_id"]}
        return {"strategy": name, **rule, "block_length": settings.get("block_length", NUM_NEW_TOKENS)}
    if settings.get("remasking") == "low_confidence":
        rule = {"algorithm": "maskgit_plus", "plan": "llada", "max_denoising_steps": settings["steps"]}
        return {"strategy": "schedule", **rule, "block_length": settings["block_length"]}
    filters = {"temperature": settings["temperature"], "top_k": settings["top_k"], "top_p": settings["top_p"]}
    if "dual_cache" in settings:
        cache = {"block_cache": "dual" if settings["dual_cache"] else "prefix", "cache_commits_first": True}
        filters |= {**cache, "block_length": settings["block_length"]}
    if settings["alg"] in ("maskgit_plus", "topk_margin", "entropy"):
        rule = {"algorithm": settings["alg"], "eps": settings["eps"], "max_denoising_steps": settings["steps"]}
        return {"strategy": "schedule", **rule, **filters}
    if settings["alg"] == "klass":
        rule = {"confidence_threshold": settings["conf_threshold"], "kl_threshold": settings["kl_threshold"]}
        return {"strategy": "klass", **rule, "history_length": settings["kl_history_length"], **filters}
    if settings["alg"] == "dawn":
        names = {"confidence_threshold": "conf_threshold", "induced_threshold": "tau_induce"}
        names |= {"sink_threshold": "tau_sink", "edge_threshold": "tau_edge", "block_length": "block_length"}
        return {"strategy": "dawn", **{ours: settings[theirs] for ours, theirs in names.items()}, **filters}
    if settings["steps"] == 1 or "dual_cache" in settings:
        return {"strategy": "threshold", "confidence_threshold": settings["threshold"], **filters}
    return None


def _freedave_arguments(settings):
    if settings["early_exit"]:
        # An end after blocks of end-of-sequence tokens only is no rule of this library.
        return None
    order = "left_to_right" if settings["alg_temp"] == -1 else "confidence"
    rule = {"block_length": settings["block_length"], "cache_commits_first": True}
    rule |= {"block_cache": "dual" if settings["dual_cache"] else "prefix"}
    threshold = settings.get("confidence_threshold")
    if settings["decoding_alg"] == "freedave":
        fields = {"num_versions": settings["draft_steps"], "confidence_threshold": threshold, "order": order}
        return {"strategy": "freedave", **fields, **rule}
    if threshold is not None:
        return {"strategy": "threshold", "confidence_threshold": threshold, **rule}
    return {"strategy": "sequential", "order": order, **rule}


def _constrained(case, mask_token_id):
    """Return the prompt with an answer whose given tokens are written, and the arguments that this changes."""
    answer = [mask_token_id] * NUM_NEW_TOKENS
    for place, token in case["settings"]["constraints"].items():
        answer[int(place)] = token
    start = case["settings"]["answer_start_pos"] - NUM_NEW_TOKENS
    return [[*row, *answer] for row in case["prompt"]], {
        "max_new_tokens": 0,
        "block_length": None,
        "answer_start": start,
    }


@cache
def _model(checkpoint, scale=1.0):
    model = AutoModel.from_pretrained(FOLDER / "checkpoints" / checkpoint).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return model


@pytest.mark.parametrize(("name", "case"), _cases())
def test_decoding_equals_the_public_code(name, case):
    recorded = _recorded(name)
    model = _model(recorded["checkpoint"], recorded.get("lm_head_scale", 1.0))
    attention_mask, settings = case.get("attention_mask"), case["settings"]
    arguments, prompt = {"max_new_tokens": NUM_NEW_TOKENS, **_arguments(settings)}, case["prompt"]
    if "constraints" in settings:
        prompt, changed = _constrained(case, model.config.mask_token_id)
        arguments |= changed
    output = model.generate(
        torch.tensor(prompt),
        None if attention_mask is None else torch.tensor(attention_mask),
        stop_at_eos=False,
        return_dict_in_generate=True,
        **arguments,
    )
    assert output.sequences.tolist() == case["sequences"]
    steps = output.unmask_step[:, -NUM_NEW_TOKENS:].tolist()
    if settings.get("decoding_alg") == "base" and len(prompt) > 1 and "confidence_threshold" in settings:
        # Rows of the public code wait for each other at the end of a block.
        return
    if settings.get("decoding_alg") == "freedave":
        # The public code writes the last token of a step in the next one, where it verifies it once more.
        pairs = zip(steps[0], case["unmask_step"][0], strict=True)
        assert all(theirs - ours in (0, 1) for ours, theirs in pairs)
        # A threshold may complete the answer; the public code then runs the model on what is complete.
        slack = 1 if settings.get("confidence_threshold") else 0
        assert 0 <= case["nfe"] - output.num_forward_passes.item() <= slack
        return
    if "constraints" in settings and "exit_step" not in case:
        # The public code runs the steps of its plan although nothing is masked.
        assert case["nfe"] == settings["steps"]
    else:
        assert set(output.num_forward_passes.tolist()) == {case["nfe"]}
    if not case.get("step_order_unreliable"):
        assert steps == case["unmask_step"]


@pytest.mark.parametrize("name", FILES)
def test_recordings_belong_to_the_checkpoints_and_are_many(name):
    recorded = _recorded(name)
    weights = (FOLDER / "checkpoints" / recorded["checkpoint"] / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == recorded["weights_sha256"]
    assert recorded["mask_token_id"] == _model(recorded["checkpoint"]).config.mask_token_id
    assert sum(_arguments(case["settings"]) is not None for case in recorded["cases"]) >= 20


def test_first_step_of_a_full_schedule_is_empty_in_the_recordings_too():
    steps = {
        tuple(case["n_unmasked_per_step"])
        for case in _recorded("R1_dream_official")["cases"]
        if case["settings"]["steps"] == NUM_NEW_TOKENS
    }
    assert steps == {(0, *[1] * 22, 2)}


@pytest.mark.parametrize("checkpoint", ["R1", "T"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("rows", ["nomask", "single", "padded"])
def test_logits_and_hidden_states_equal_the_official_model(checkpoint, attention, rows):
    tensors = load_file(FOLDER / f"{checkpoint}_logits.safetensors")
    model = AutoModel.from_pretrained(FOLDER / "checkpoints" / checkpoint, attn_implementation=attention).eval()
    inputs = {"input_ids": tensors[f"{rows}.input_ids"]}
    is_real = torch.ones_like(inputs["input_ids"], dtype=torch.bool)
    if rows == "padded":
        inputs["attention_mask"] = tensors["padded.attention_mask"]
        is_real = inputs["attention_mask"].bool()
        assert not is_real.all()
    with torch.no_grad():
        logits, states = model(**inputs).logits, model.model(**inputs).last_hidden_state
    torch.testing.assert_close(logits[is_real], tensors[f"{rows}.logits"][is_real], atol=1e-4, rtol=0)
    if f"{rows}.hidden" in tensors:
        torch.testing.assert_close(states[is_real], tensors[f"{rows}.hidden"][is_real], atol=1e-4, rtol=0)


@pytest.mark.parametrize("checkpoint", ["R1", "T"])
@pytest.mark.parametrize("rows", ["nomask", "padded"])
def test_gathered_logits_are_the_official_ones_shifted_by_one(checkpoint, rows):
    tensors = load_file(FOLDER / f"{checkpoint}_logits.safetensors")
    ids, attention_mask = tensors[f"{rows}.input_ids"], tensors.get(f"{rows}.attention_mask")
    is_asked = torch.zeros_like(ids, dtype=torch.bool)
    is_asked[:, -5:] = True
    prediction = Backbone.of(_model(checkpoint)).predict(PredictionRequest(ids, is_asked, attention_mask))
    torch.testing.assert_close(prediction.logits, tensors[f"{rows}.logits"][:, -6:-1].flatten(0, 1), atol=1e-4, rtol=0)
    states = tensors[f"{rows}.hidden"][:, -6:-1].flatten(0, 1)
    torch.testing.assert_close(prediction.hidden_states, states, atol=1e-4, rtol=0)


def test_default_call_of_the_public_code_filters_to_fifty_tokens():
    settings = [case["settings"] for case in _recorded("R1_dream_official")["cases"]]
    assert {setting["top_k"] for setting in settings} == {None, 50}

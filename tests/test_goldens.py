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
    "R1_d2cache_rules",
    "R1_fastdllm_llada_rules",
    "R1_frechet_cache",
    "R1_dawn",
    "R1_dawn_wide",
    "R1_freedave",
    "R1_freedave_base",
    "R1_prophet",
    "Tsoft_freedave",
    "Tsoft_prophet",
    "R1_t2m_remask",
    "R1_wino",
    "R1_wino_d2cache",
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
# Further recordings, which are not kept in the repository: read from beside it where they are, in slow runs.
SHARED_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "goldens"
SHARED_FILES = [
    f"{checkpoint}_{code}"
    for checkpoint in ("T", "Tsoft")
    for code in ("eoser", "d2cache_rules", "fastdllm_llada_rules", "frechet_cache")
]
SHARED_FILES += ["R1_eoser_ties", "R1_d2cache_rules_ties", "R1_fastdllm_llada_rules_ties"]
SHARED_FILES += ["T_eoser_ties", "T_d2cache_rules_ties", "T_frechet_cache_ties"]
SHARED_FILES += ["T_t2m_remask", "T_t2m_remask_ties", "Tsoft_t2m_remask"]
SHARED_FILES += ["T_prophet", "T_prophet_ties", "T_freedave", "T_freedave_ties"]
SHARED_FILES += ["T_freedave_base", "T_freedave_base_ties", "R1_freedave_base_ties", "Tsoft_freedave_base"]
SHARED_FILES += [f"{name}_wino{code}" for name in ("R1", "T") for code in ("_ties", "_d2cache_ties")]
SHARED_FILES += [f"{name}_wino{code}" for name in ("T", "Tsoft") for code in ("", "_d2cache")]
# Of the trained checkpoint's cases, of those with a cache or many rules and of those that remask, the default run
# takes every sixth; all are run with `-m "slow or not slow"`.
SAMPLE_EVERY = 6


@cache
def _recorded(name):
    folder = FOLDER if name in FILES else SHARED_FOLDER
    return json.loads((folder / f"{name}.json").read_text())


def _cases():
    for name in (*FILES, *SHARED_FILES):
        if name in SHARED_FILES and not (SHARED_FOLDER / f"{name}.json").is_file():
            skip = pytest.mark.skip(reason=f"needs ../shared/goldens/{name}.json, beside the repository")
            yield pytest.param(name, None, id=name, marks=[pytest.mark.slow, skip])
            continue
        known = [case for case in _recorded(name)["cases"] if _arguments(case["settings"]) is not None]
        # Where the public code of DAWN rewrote the prompt, see `goldens/README.md`, it went another way from there.
        known = [case for case in known if not case.get("overwritten")]
        for index, case in enumerate(known):
            words = ("cache", "rules", "remask", "wino")
            is_whole = name.startswith("R1") and not any(word in name for word in words)
            is_sampled = name in FILES and (is_whole or index % SAMPLE_EVERY == 0)
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
        rule |= {
            "ascending_blocks": settings.get("block_num", 1),
            "max_denoising_steps": settings["steps"],
            "eos_token_id": settings["eos_token_id"],
        }
        return {"strategy": name, **rule, "block_length": settings.get("block_length", NUM_NEW_TOKENS)}
    remasking = _token_to_mask(settings) or _wide_in_narrow_out(settings)
    if remasking:
        return remasking
    if "num_transfer_tokens" in settings or ("remasking" in settings and "cfg_scale" not in settings):
        return {**_rule_of(settings), "block_length": settings["block_length"]}
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
    # More steps than one let a pool of positions grow, see `goldens/README.md`.
    return {**_rule_of(settings), **filters} if settings["steps"] == 1 or "dual_cache" in settings else None


def _rule_of(settings):
    """Return the strategy for a recorded rule of Fast-dLLM's or d2Cache's code."""
    if "gamma" in settings:
        return {"strategy": "entropy_bound", "entropy_bound": settings["gamma"], "order": "confidence"}
    if "frechet_margin" in settings:
        return {"strategy": "frechet", "frechet_margin": settings["frechet_margin"]}
    if "factor" in settings:
        variant = "d2cache" if "num_transfer_tokens" in settings else "fast_dllm"
        return {"strategy": "threshold", "factor": settings["factor"], "factor_variant": variant}
    return {"strategy": "threshold", "confidence_threshold": settings["threshold"]}


def _token_to_mask(settings):
    if "max_post_steps" not in settings:
        return None
    rule = {"confidence_threshold": settings["threshold"], "rule": settings["strategy"]}
    names = {"editing_threshold": "editing_threshold", "remask_threshold": "remask_threshold"}
    names |= {"max_position_remasks": "max_remask_per_pos", "remask_share": "max_remask_ratio"}
    rule |= {ours: settings[theirs] for ours, theirs in names.items() if theirs in settings}
    # The public code has no cap on all changes of a row.
    return {"strategy": "t2m", **rule, "max_review_steps": settings["max_post_steps"], "max_remasks": 10_000}


def _wide_in_narrow_out(settings):
    if "threshold_back" not in settings and "narrow_out_thres" not in settings:
        return None
    is_authors = "threshold_back" in settings
    names = ("threshold", "threshold_back") if is_authors else ("wide_in_thres", "narrow_out_thres")
    rule = {"confidence_threshold": settings[names[0]], "verification_threshold": settings[names[1]]}
    rule |= {"form": "authors" if is_authors else "d2cache", "block_length": settings["block_length"]}
    return {"strategy": "wino", **rule, "max_remasks": 10_000}


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
    steps, num_passes = output.unmask_step[:, -NUM_NEW_TOKENS:], set(output.num_forward_passes.tolist())
    if settings.get("decoding_alg") == "base" and len(prompt) > 1 and "confidence_threshold" in settings:
        # Rows of the public code wait for each other at the end of a block.
        return
    if settings.get("decoding_alg") == "freedave":
        more = case["nfe"] - output.num_forward_passes.item()
        if case.get("step_order_unreliable"):
            # Which of equally certain positions a draft holds decides whether it is accepted.
            assert abs(more) <= 1
            return
        # The public code writes the last token of a step in the next one, where it verifies it once more.
        pairs = zip(steps[0].tolist(), case["unmask_step"][0], strict=True)
        assert all(theirs - ours in (0, 1) for ours, theirs in pairs)
        # A threshold may complete the answer; the public code then runs the model on what is complete.
        assert 0 <= more <= (1 if settings.get("confidence_threshold") else 0)
        return
    if "wino" in name:
        assert output.num_forward_passes.sum() == case.get("row_forwards", case["nfe"])
    if "wino" in name or "rules" in name:
        # There rows that are finished wait for the others before the next block.
        steps = _as_if_rows_waited(steps, case["settings"]["block_length"])
        num_passes = {int(steps.max()) + 1}
    if "constraints" in settings and "exit_step" not in case:
        # The public code runs the steps of its plan although nothing is masked.
        num_passes = {settings["steps"]}
    assert num_passes == {case["nfe"]}
    if not case.get("step_order_unreliable") and not case.get("tie"):
        if "remask_steps" in case:
            assert output.num_remasked.sum() == len(case["remask_steps"]) + len(case.get("edit_steps", []))
        assert steps.tolist() == case["unmask_step"]


def _as_if_rows_waited(steps, block_length):
    """Count steps as codes do whose rows begin a block together; the last step of a block writes in it."""
    blocks, start, own = [], 0, torch.zeros_like(steps[:, :1])
    for block in steps.split(block_length, dim=-1):
        blocks.append(block - own + start)
        start, own = int(blocks[-1].max()) + 1, block.amax(dim=-1, keepdim=True) + 1
    return torch.cat(blocks, dim=-1)


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

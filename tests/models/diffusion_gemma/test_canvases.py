"""Strategies, heads, observers and refusals on a model with canvases."""

import re

import pytest
import torch

import demask_hf
from demask_hf.backbones.backbone import Backbone, backbone_facts
from demask_hf.backbones.prediction import PredictionRequest
from demask_hf.functional.sampling import Sampling
from demask_hf.generation.canvases import CanvasForward
from demask_hf.training.collection import collect
from demask_hf.training.examples import measure_examples
from demask_hf.training.prompts import TokenizedPrompt
from demask_hf.training.states import CollectionSettings, MeasuredStates
from demask_hf.training.trainer import new_head, split_by_prompt, train_head


VOCABULARY = MARK = 61
PROMPTS = torch.randint(3, 50, (3, 5), generator=torch.Generator().manual_seed(5))
RULES = [
    {"strategy": "renoise", "confidence_threshold": 0.6, "stability_threshold": 0},
    {"strategy": "threshold", "confidence_threshold": 0.5},
    {"strategy": "entropy_bound", "entropy_bound": 0.5, "temperature": 0.7},
    {"strategy": "demask", "dependency_bound": 0.5},
]


def _head(model, seed=0):
    return new_head(backbone_facts(model), seed, width=16)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["strategy"])
def test_a_row_of_a_batch_is_the_row_alone(ours, rule):
    if rule["strategy"] == "demask":
        ours.set_demask_head(_head(ours))
    mask = torch.ones_like(PROMPTS)
    mask[0, :2] = 0
    given = {"max_new_tokens": 16, "return_dict_in_generate": True, "eos_token_id": list(range(1, 9)), **rule}
    together = ours.generate(PROMPTS, mask, seed=[1, 2, 3], **given)
    assert len(set(together.num_forward_passes.tolist())) > 1
    for row in range(3):
        real = PROMPTS[row : row + 1, mask[row].bool()]
        alone = ours.generate(real, seed=row + 1, **given)
        assert together.sequences[row, -16:].tolist() == alone.sequences[0, -16:].tolist()
        assert together.num_forward_passes[row] == alone.num_forward_passes[0]


def test_seeds_and_generators_repeat_a_decoding(ours):
    first, again, other = (ours.generate(PROMPTS, max_new_tokens=8, seed=seed).sequences for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    drawn = [
        ours.generate(PROMPTS, max_new_tokens=8, generator=torch.Generator().manual_seed(4)).sequences for _ in "12"
    ]
    assert torch.equal(*drawn)


def test_accepted_tokens_stay_and_open_positions_are_marked(ours):
    settings = {"max_new_tokens": 16, "seed": 0, "stop_at_eos": False, "output_history": True}
    output = ours.generate(PROMPTS, strategy="sequential", **settings)
    assert output.num_forward_passes.tolist() == [12, 12, 12], "6 steps for each canvas, the last of which writes all"
    for before, after in zip(output.history, output.history[1:], strict=False):
        written = before != MARK
        assert torch.equal(before[written], after[written])
    assert (output.history[0][:, 5:] == MARK).all()
    assert (output.sequences < VOCABULARY).all()


def test_settings_of_the_checkpoint_and_of_a_config_of_transformers(ours):
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
        DiffusionGemmaGenerationConfig,
        EntropyBoundSamplerConfig,
    )

    config = DiffusionGemmaGenerationConfig(
        max_new_tokens=8, t_min=0.1, sampler_config=EntropyBoundSamplerConfig(entropy_bound=0.4)
    )
    as_keywords = ours.generate(PROMPTS, max_new_tokens=8, t_min=0.1, entropy_bound=0.4, seed=0)
    assert torch.equal(ours.generate(PROMPTS, generation_config=config, seed=0).sequences, as_keywords.sequences)
    assert as_keywords.num_forward_passes.tolist() == [6, 6, 6], "max_denoising_steps is the checkpoint's"
    plain = DiffusionGemmaGenerationConfig(max_new_tokens=8, max_denoising_steps=2)
    assert ours.generate(PROMPTS, generation_config=plain, seed=0).num_forward_passes.tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match="`sampler_config` must be given as"):
        ours.generate(PROMPTS, sampler_config=EntropyBoundSamplerConfig(0.2))


class _Log:
    def __init__(self):
        self.calls = []

    def put(self, value):
        self.calls.append(("text", value.flatten().tolist()))

    def put_draft(self, value):
        self.calls.append(("draft", value.flatten().tolist()))

    def end(self):
        self.calls.append(("end", []))


def test_a_streamer_gets_what_it_gets_in_transformers(ours, theirs):
    logs = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        logs.append(_Log())
        model.generate(PROMPTS[:1], max_new_tokens=16, streamer=logs[-1], max_denoising_steps=3)
    assert [kind for kind, _ in logs[0].calls] == ["text", *["draft"] * 2, "text", *["draft"] * 2, "text", "end"]
    # There, a finished canvas is sent as a draft, too.
    del logs[1].calls[3], logs[1].calls[6]
    assert logs[0].calls == logs[1].calls


def test_the_trace_records_every_step(ours):
    output = ours.generate(PROMPTS[:1], strategy="sequential", max_new_tokens=8, seed=0, trace=True)
    assert len(output.trace.passes) == 6
    assert output.trace.to_dict()


def _canvas(model, sequences, noise):
    backbone = Backbone.of(model)
    forward = CanvasForward.at(backbone, sequences, None, noise)
    candidates = sequences == MARK
    return backbone, candidates, forward.predict(PredictionRequest(sequences, candidates), list(range(len(sequences))))


@pytest.fixture
def canvas():
    """Return prompts with canvases of which some positions are accepted, and noise for two steps."""
    generator = torch.Generator().manual_seed(3)
    answers = torch.randint(3, 50, (3, 8), generator=generator)
    answers[torch.rand(3, 8, generator=generator) < 0.5] = MARK
    # Nothing of the last one is accepted.
    answers[2] = MARK
    return torch.cat([PROMPTS, answers], dim=1), torch.randint(VOCABULARY, (2, 3, 8), generator=generator)


@torch.no_grad()
def test_heads_read_the_states_after_the_final_norm(ours, canvas):
    _, candidates, prediction = _canvas(ours, *canvas)
    logits = torch.tanh(ours.lm_head(prediction.hidden_states) / 30.0) * 30.0
    torch.testing.assert_close(prediction.logits[:, :VOCABULARY], logits)
    assert prediction.logits.shape == (int(candidates.sum()), VOCABULARY + 1)
    assert (prediction.logits[:, MARK] == torch.finfo(torch.float32).min).all()


@torch.no_grad()
def test_dependencies_are_changes_of_predictions_when_a_position_is_fixed(ours, theirs, canvas):
    sequences, noise = canvas
    backbone, candidates, _ = _canvas(ours, sequences, noise)
    examples = measure_examples(
        backbone, sequences, None, candidates, 8, torch.Generator().manual_seed(0), "argmax", noise=noise
    )

    def predicted(row, answer, before):
        conditions = {}
        if row < 2:
            earlier = torch.where(sequences[row, 5:] == MARK, noise[0, row], sequences[row, 5:])[None]
            conditions["self_conditioning_logits"] = theirs(PROMPTS[row : row + 1], decoder_input_ids=earlier).logits
        return theirs(PROMPTS[row : row + 1], decoder_input_ids=answer[None], **conditions).logits[0].softmax(dim=-1)

    for row, example in enumerate(examples):
        answer = sequences[row, 5:]
        is_open = answer == MARK
        shown = torch.where(is_open, noise[1, row], answer)
        base = predicted(row, shown, noise[0, row])
        places = is_open.nonzero().squeeze(-1)
        assert example.positions.tolist() == (places + 5).tolist()
        for source, target in zip(example.sources.tolist(), example.targets, strict=True):
            fixed = shown.clone()
            fixed[places[source]] = base[places[source]].argmax()
            distance = (predicted(row, fixed, noise[0, row]) - base).abs().sum(dim=-1) / 2
            distance[places[source]] = 0.0
            torch.testing.assert_close(target, distance[places], atol=1e-5, rtol=1e-4)


def test_a_head_is_trained_and_decodes(ours, tmp_path):
    prompts = [TokenizedPrompt((3, 4, 5)[: 1 + row % 3], tuple(range(6, 10 + row % 4))) for row in range(10)]
    settings = CollectionSettings(num_states=20, answer_length=8, states_per_shard=20, estimator="argmax")
    collection = collect(ours, prompts, tmp_path / "states", settings, is_verbose=False)
    assert len(collection) == 20
    assert collection[0].hidden_states.shape[1] == 32
    head = new_head(collection.facts["backbone"], 0, width=16)
    quiet = {"logging_strategy": "no", "disable_tqdm": True}
    fit = train_head(head, *split_by_prompt(collection, 0.2, 0), tmp_path / "head", max_steps=3, seed=0, **quiet)
    assert 0 <= fit["mae"] <= 1
    ours.set_demask_head(head.eval())
    output = ours.generate(PROMPTS, max_new_tokens=8, strategy="demask", dependency_bound=0.5, seed=0)
    assert (output.num_forward_passes <= 6).all()
    assert (output.num_probe_passes == 0).all()


def test_measured_dependencies_decode_without_a_head(ours):
    output = ours.generate(
        PROMPTS, max_new_tokens=8, strategy="demask", dependencies="exact", estimator="argmax", seed=0
    )
    assert (output.num_probe_passes > 0).all()


READ_OPEN_POSITIONS = {
    *("demask", "distance", "entropy_bound", "eoser", "frechet", "klass", "local_leap", "punt", "quota"),
    *("mean_field", "schedule", "sequential", "table", "threshold"),
}


@pytest.mark.parametrize("name", demask_hf.strategy_names())
def test_strategies_that_read_open_positions_only_decode_canvases(ours, name):
    ours.set_demask_head(_head(ours))
    if name in READ_OPEN_POSITIONS:
        output = ours.generate(PROMPTS, strategy=name, max_new_tokens=16, max_denoising_steps=2, seed=0)
        assert (output.sequences < VOCABULARY).all()
        assert (output.num_forward_passes <= 4).all()
        return
    with pytest.raises(ValueError, match="`strategy` must read open positions of the current canvas only"):
        ours.generate(PROMPTS, strategy=name, max_new_tokens=16)


REFUSED = [
    ({"max_new_tokens": 12}, "`max_new_tokens` must be a multiple of the canvas length (8), got 12."),
    ({"block_length": 4}, "`block_length` must be 8 for a DiffusionGemmaForBlockDiffusion, got 4."),
    ({"constraint": "a*"}, "`constraint` must be None for a DiffusionGemmaForBlockDiffusion"),
    ({"compile": True}, "`compile` must be False for a DiffusionGemmaForBlockDiffusion"),
    ({"batch_invariant": True}, "`batch_invariant` must be False for a DiffusionGemmaForBlockDiffusion"),
    ({"block_cache": "dual"}, "`block_cache` must be 'none'"),
    ({"temperature": 0.5}, "`temperature` must be 0 for strategy 'renoise', got 0.5."),
    ({"suppress_tokens": [5]}, "`suppress_tokens` must be [] for strategy 'renoise', got [5]."),
    ({"logits_processor": [lambda ids, scores: scores]}, "`logits_processor` must be None for strategy 'renoise'"),
    ({"pixel_values": PROMPTS}, "`pixel_values` must be an argument of generate"),
    ({"input_ids": PROMPTS.clone().fill_(MARK)}, "`input_ids` must hold token ids in [0, 61)"),
]


@pytest.mark.parametrize(
    ("given", "message"), REFUSED, ids=lambda value: "-".join(value) if type(value) is dict else ""
)
def test_what_canvases_cannot_do_is_refused(ours, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ours.generate(**{"input_ids": PROMPTS, "max_new_tokens": 8, **given})


@pytest.mark.parametrize(
    ("field", "value"),
    [("entropy_bound", 0), ("t_min", -1), ("t_max", 0.4), ("stability_threshold", -1), ("confidence_threshold", 0)],
)
def test_fields_of_renoise_have_intervals(field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        demask_hf.make_strategy("renoise", **{field: value})


def test_renoise_is_refused_where_there_is_a_mask_token(dream):
    message = "`strategy` must be another one than 'renoise' for a DreamModel, which has a mask token"
    with pytest.raises(ValueError, match=message):
        dream.generate(PROMPTS % 20 + 3, strategy="renoise", max_new_tokens=8)
    assert "renoise" not in demask_hf.strategy_names()


def test_what_attach_and_quirks_refuse(theirs):
    with pytest.raises(ValueError, match="`noise` must be one of mask, uniform, got 'gauss'"):
        demask_hf.BackboneQuirks(noise="gauss")
    with pytest.raises(ValueError, match="`model` must be a DiffusionGemmaForBlockDiffusion, got DiffusionGemmaModel"):
        demask_hf.attach(theirs.model)
    for argument in ("mask_token_id", "logits_shift"):
        with pytest.raises(ValueError, match=f"`{argument}` must be None for a DiffusionGemmaForBlockDiffusion"):
            demask_hf.attach(theirs, **{argument: 1})


def test_answers_to_learn_from_fill_a_canvas(ours):
    settings = CollectionSettings(num_states=2, answer_length=16)
    with pytest.raises(ValueError, match=re.escape("`answer_length` must be the canvas length (8), got 16.")):
        MeasuredStates(ours, [TokenizedPrompt((3,), (4,))], settings)
    request = PredictionRequest(PROMPTS, torch.ones_like(PROMPTS, dtype=torch.bool))
    with pytest.raises(ValueError, match="`model` must have a mask token here"):
        Backbone.of(ours).predict(request)


def test_the_noise_of_a_step_is_uniform(ours):
    from demask_hf.strategies import Canvas

    tokens = torch.zeros(200, 8, dtype=torch.long)
    positions = torch.arange(8).expand_as(tokens)
    canvas = Canvas(tokens, 10, torch.float32, torch.arange(200), tokens[:, 0], positions, 0, lambda: None)
    first, other = canvas.noise(is_first=True), canvas.noise()
    assert not torch.equal(first, other)
    for noise in (first, other):
        counts = torch.bincount(noise.flatten(), minlength=10)
        assert counts.sum() == 1600
        assert (counts > 110).all(), "160 of each are expected, with a standard deviation of 12"
    drawn = canvas.drawn(Sampling().probabilities(torch.eye(10)[None, :1].expand(200, 8, 10) * 99.0))
    assert (drawn == 0).all()

"""Scoring the candidates part by part gives what scoring them at once gives, with less memory."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForMaskedLM, BertConfig

import demask_hf
from demask_hf import UnmaskingStrategy
from demask_hf.backbones.backbone import Backbone
from demask_hf.backbones.prediction import PredictionRequest, replaced_forward
from demask_hf.generation import predictor
from demask_hf.strategies import strategy_names


PROMPTS = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10], [0, 11, 12, 13]])
ATTENTION_MASK = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
VARIANTS = [{"strategy": name} for name in strategy_names()]
VARIANTS += [{"strategy": "sequential", "order": score} for score in ("entropy", "margin", "random", "left_to_right")]
VARIANTS += [{"strategy": "schedule", "algorithm": algorithm} for algorithm in ("origin", "topk_margin")]
VARIANTS += [{"strategy": "demask", "order": order} for order in ("entropy", "margin", "token_probability")]
VARIANTS += [{"strategy": "demask", "max_candidates": 3}, {"strategy": "demask", "dependencies": "exact"}]
VARIANTS += [{"strategy": "demask", "block_cache": cache, "block_length": 3} for cache in ("prefix", "dual")]
VARIANTS += [{"strategy": "threshold", "block_cache": "dual", "block_length": 3}]


class LargestShare(TorchDispatchMode):
    """Keep the most rows of a tensor over the vocabulary that an operation returns."""

    def __init__(self, vocab_size):
        super().__init__()
        self.vocab_size, self.rows = vocab_size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # The output layer's weight, turned around, has the vocabulary last, too.
        is_weight = func.overloadpacket.__name__ == "t"
        for tensor in () if is_weight else result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.ndim > 1 and tensor.shape[-1] == self.vocab_size:
                self.rows = max(self.rows, tensor.numel() // self.vocab_size)
        return result


def _decode(model, **arguments):
    settings = {"max_new_tokens": 6, "return_dict_in_generate": True, "seed": 3, **arguments}
    return model.generate(PROMPTS, ATTENTION_MASK, **settings)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
def test_parts_change_nothing(dream_with_head, variant, temperature, monkeypatch):
    expected = _decode(dream_with_head, **variant, temperature=temperature)
    monkeypatch.setattr(predictor, "_MAX_PART_ELEMENTS", 4 * 24)
    found = _decode(dream_with_head, **variant, temperature=temperature)
    assert torch.equal(found.sequences, expected.sequences)
    assert torch.equal(found.unmask_step, expected.unmask_step)
    assert torch.equal(found.num_forward_passes, expected.num_forward_passes)


@pytest.mark.parametrize("strategy", ["sequential", "schedule", "threshold", "entropy_bound", "demask"])
def test_no_tensor_over_the_vocabulary_is_larger_than_a_part(make_dream, make_head, strategy, monkeypatch):
    model = make_dream(vocab_size=57)
    model.set_demask_head(make_head(model))
    for size, rows in ((1 << 20, 18), (4 * 57, 4)):
        monkeypatch.setattr(predictor, "_MAX_PART_ELEMENTS", size)
        with LargestShare(57) as largest:
            _decode(model, strategy=strategy)
        assert largest.rows == rows


def test_an_encoder_with_a_head_of_several_layers_is_scored_in_parts(monkeypatch):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = AutoModelForMaskedLM.from_config(BertConfig(vocab_size=24, **sizes)).eval()
    demask_hf.attach(model, mask_token_id=1)
    expected = _decode(model, strategy="threshold", confidence_threshold=0.05).sequences
    monkeypatch.setattr(predictor, "_MAX_PART_ELEMENTS", 5 * 24)
    assert torch.equal(_decode(model, strategy="threshold", confidence_threshold=0.05).sequences, expected)


def test_logits_processors_see_all_candidates_at_once(dream, monkeypatch):
    monkeypatch.setattr(predictor, "_MAX_PART_ELEMENTS", 24)
    seen = []

    def processor(ids, scores):
        seen.append(len(scores))
        return scores.index_fill(-1, torch.tensor([9]), 50.0)

    output = _decode(dream, strategy="threshold", logits_processor=[processor])
    assert seen == [18]
    assert (output.sequences[:, 4:] == 9).all()


def test_compiled_bodies_are_scored_in_parts(dream, monkeypatch):
    expected, sizes = _decode(dream, strategy="threshold").sequences, []
    monkeypatch.setattr(predictor, "_MAX_PART_ELEMENTS", 4 * 24)
    hook = dream.lm_head.register_forward_hook(lambda module, inputs, output: sizes.append(output.shape[1]))
    found = _decode(dream, strategy="threshold", compile={"backend": "eager"}).sequences
    hook.remove()
    assert torch.equal(found, expected)
    assert max(sizes) == 4


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_compiled_scores_are_the_scores(dream_with_head, temperature):
    for settings in ({"strategy": "demask"}, {"strategy": "threshold"}, {"strategy": "demask", "order": "margin"}):
        expected = _decode(dream_with_head, temperature=temperature, **settings)
        found = _decode(dream_with_head, temperature=temperature, compile={"backend": "aot_eager"}, **settings)
        assert torch.equal(found.sequences, expected.sequences)
        assert torch.equal(found.unmask_step, expected.unmask_step)


def test_parts_of_a_prediction_are_the_whole(dream):
    candidates = torch.zeros(3, 4, dtype=torch.bool)
    candidates[:, 1:] = True
    backbone = Backbone.of(dream)
    whole = backbone.predict(PredictionRequest(PROMPTS, candidates, None))
    parted = backbone.predict(PredictionRequest(PROMPTS, candidates, None, part_size=4))
    parts = list(parted.parts())
    assert [part for part, _ in parts] == [slice(0, 4), slice(4, 8), slice(8, 9)]
    torch.testing.assert_close(torch.cat([logits for _, logits in parts]), whole.logits)
    torch.testing.assert_close(parted.hidden_states, whole.hidden_states)
    assert "forward" not in vars(dream.model)


def test_a_strategy_gets_only_the_scores_that_it_names(dream):
    @dataclass
    class Careless(UnmaskingStrategy):
        needs = frozenset({"margin"})

        def select(self, step):
            assert step.probabilities is None
            assert set(step.known_scores) == {"confidence", "margin"}
            return step.best(step.score("entropy"), 1)

    with pytest.raises(KeyError, match="`needs` of the strategy must name 'entropy', got"):
        _decode(dream, strategy=Careless())


def test_other_threads_run_the_usual_forward(dream):
    ids = torch.tensor([[5, 6, 7]])
    expected, found = dream.model(ids).last_hidden_state, []
    with replaced_forward(dream.model, lambda *args, **kwargs: "replaced"):
        assert dream.model(ids) == "replaced"
        thread = threading.Thread(target=lambda: found.append(dream.model(ids).last_hidden_state))
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)
    assert torch.equal(dream.model(ids).last_hidden_state, expected)


def test_threads_score_in_parts_side_by_side(dream, monkeypatch):
    monkeypatch.setattr(predictor, "_MAX_PART_ELEMENTS", 2 * 24)
    prompts = [PROMPTS[[row % 3]] for row in range(48)]

    def decode(prompt):
        return dream.generate(prompt, max_new_tokens=12, strategy="threshold").tolist()

    expected = [decode(prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(decode, prompts)) == expected
    assert "forward" not in vars(dream.model)

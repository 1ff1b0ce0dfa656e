"""Test doubles: a tiny random Dream, and a scripted backbone whose predictions are written down by hand."""

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

import hypothesis
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast
from transformers.utils import ModelOutput

import demask_hf
from demask_hf.head.modeling_demask import DependencyOutput
from demask_hf.strategies import DenoisingStep, ProbeLedger, UnmaskingStrategy, WrappingStrategy


# The vocabulary of all doubles: padding, mask, end of sequence, and words from 3 on.
PAD, MASK, EOS = 0, 1, 2
VOCAB_SIZE = 10

# What a script says about one position: the probability of each token, missing ones share the rest evenly.
Distribution = dict[int, float]
Script = Callable[[int, tuple[int, ...]], Distribution]


# The same examples in every run, and no time limit for one of them on a busy machine.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def _single_thread():
    """Small tensors are faster on one thread, and results do not depend on the number of cores."""
    torch.set_num_threads(1)


class ScriptedBackbone(nn.Module):
    """A masked language model whose prediction for a position is looked up in a script.

    The script gets the position, counted from the row's first real token, and the row's visible ids (padding left
    out). `calls` keeps the `input_ids` of every forward.
    """

    def __init__(self, script: Script, logits_shift: int = 0, vocab_size: int = VOCAB_SIZE):
        super().__init__()
        self.script, self.logits_shift = script, logits_shift
        self.place = nn.Parameter(torch.zeros(1))
        self.calls: list[torch.LongTensor] = []
        self.config = SimpleNamespace(
            model_type="scripted",
            vocab_size=vocab_size,
            hidden_size=4,
            num_hidden_layers=1,
            mask_token_id=MASK,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )

    def forward(self, input_ids, attention_mask=None, position_ids=None, output_hidden_states=False):
        self.calls.append(input_ids.clone())
        logits = torch.zeros(*input_ids.shape, self.config.vocab_size)
        states = torch.zeros(*input_ids.shape, self.config.hidden_size)
        for row, tokens in enumerate(input_ids.tolist()):
            padding = 0 if attention_mask is None else attention_mask[row].tolist().index(1)
            context = tuple(tokens[padding:])
            for position in range(len(context)):
                column = max(padding + position - self.logits_shift, padding)
                logits[row, column] = self.distribution(position, context).log()
                states[row, column] = position
        return ModelOutput(logits=logits, hidden_states=(states,) if output_hidden_states else None)

    def distribution(self, position: int, context: tuple[int, ...]) -> torch.Tensor:
        """Return the script's distribution as a tensor of shape `(vocabulary,)`."""
        given = self.script(position, context)
        rest = (1.0 - sum(given.values())) / max(self.config.vocab_size - len(given), 1)
        full = torch.full((self.config.vocab_size,), max(rest, 0.0), dtype=torch.float64)
        for token, probability in given.items():
            full[token] = probability
        return full.clamp(min=1e-30).float()


class ScriptedHead(demask_hf.DemaskHead):
    """A dependency head that looks `D[source, target]` up in a table by position."""

    def __init__(self, table: torch.Tensor):
        super().__init__(
            demask_hf.DemaskConfig(backbone_hidden_size=4, backbone_model_type="scripted", width=16, logits_shift=0)
        )
        self.table = nn.Parameter(table.float())
        self.calls: list[tuple[torch.Tensor, torch.LongTensor, torch.BoolTensor]] = []

    def forward(self, hidden_states, positions, is_position=None, **unused):
        self.calls.append((hidden_states, positions, is_position))
        return DependencyOutput(dependencies=self.table[positions[:, :, None], positions[:, None, :]])


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Return a headless Chromium; skip where there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
        driver = importlib.import_module("browser")
    program = driver.find_browser()
    if program is None:
        pytest.skip(f"needs a browser: none of {', '.join(driver.NAMES)} is installed")
    running = driver.Browser(program, tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def two_processes() -> list[str]:
    """Return the start of a command line that runs what follows in two processes on the CPU.

    `accelerate launch` starts one process on a machine without an accelerator, whatever number it is asked for;
    torch's own launcher sets the same variables.
    """
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture
def scripted() -> Callable[..., nn.Module]:
    """Return a function that builds a scripted backbone with our `generate`.

    The script is a function of position and context, or a list of distributions for the positions after a prompt of
    `prompt_length` tokens.
    """

    def build(script: Script | Sequence[Distribution], prompt_length: int = 1, head=None, **kwargs) -> nn.Module:
        function = script
        if not callable(script):

            def function(position, context):
                index = position - prompt_length
                return script[index] if 0 <= index < len(script) else {3: 1.0}

        model = ScriptedBackbone(function, **kwargs)
        return demask_hf.attach(model, head, logits_shift=model.logits_shift)

    return build


@pytest.fixture
def scripted_head() -> Callable[[torch.Tensor], ScriptedHead]:
    """Return a function that builds a head from a table of dependencies between positions."""
    return ScriptedHead


def _no_probes(sequences, rows, asked):
    raise RuntimeError("this step has no probes")


@pytest.fixture
def make_step() -> Callable[..., DenoisingStep]:
    """Return a function that builds the step of a strategy from distributions, one row of candidates by default."""

    def build(probabilities, candidates=None, tokens=None, **fields) -> DenoisingStep:
        probabilities = torch.as_tensor(probabilities, dtype=torch.float32)
        if candidates is None:
            candidates = torch.ones(1, probabilities.shape[0], dtype=torch.bool)
        candidates = torch.as_tensor(candidates, dtype=torch.bool)
        batch, length = candidates.shape
        zeros = torch.zeros(batch, dtype=torch.long)
        known = {
            "sequences": torch.full((batch, length), 3).masked_fill(candidates, MASK),
            "candidates": candidates,
            "positions": torch.arange(length).expand(batch, -1),
            "probabilities": probabilities,
            "tokens": probabilities.argmax(dim=-1) if tokens is None else torch.as_tensor(tokens),
            "step_index": zeros,
            "block_step_index": zeros,
            "num_block_steps": candidates.sum(dim=-1),
            "seeds": zeros,
            "mask_token_id": MASK,
            "forward": _no_probes,
            "ledger": ProbeLedger(zeros.clone(), torch.zeros(batch)),
        }
        return DenoisingStep(**{**known, **fields})

    return build


@dataclass
class SeeingStrategy(WrappingStrategy):
    """Keep the steps that a strategy sees."""

    rule: UnmaskingStrategy
    steps: list = field(default_factory=list)

    @property
    def wrapped(self):
        return (self.rule,)

    def select(self, step):
        self.steps.append(step)
        return self.rule.select(step)


@pytest.fixture
def seeing() -> type[SeeingStrategy]:
    """Return a class that wraps a strategy and keeps the steps that it sees."""
    return SeeingStrategy


def build_dream(seed: int = 0, sharpness: float = 12.0, **overrides) -> demask_hf.DreamModel:
    """Build a random Dream of two layers; `sharpness` scales its logits, so that scores differ clearly."""
    settings = {
        "vocab_size": 24,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "mask_token_id": MASK,
        "pad_token_id": PAD,
        "bos_token_id": EOS,
        "eos_token_id": EOS,
        "initializer_range": 0.2,
        **overrides,
    }
    torch.manual_seed(seed)
    model = demask_hf.DreamModel(demask_hf.DreamConfig(**settings))
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness * 0.2)
    return model.eval()


def build_head(model: demask_hf.DreamModel, seed: int = 5) -> demask_hf.DemaskHead:
    """Build a random dependency head for a Dream; its predictions are spread over [0, 1].

    With some seeds a head finds no two positions of the tests' prompts independent; with the default one it does.
    """
    config = demask_hf.DemaskConfig(
        backbone_hidden_size=model.config.hidden_size,
        backbone_num_layers=model.config.num_hidden_layers,
        backbone_vocab_size=model.config.vocab_size,
        width=16,
        num_attention_heads=2,
        num_distance_buckets=8,
        max_distance=32,
        initializer_range=0.5,
    )
    torch.manual_seed(seed)
    return demask_hf.DemaskHead(config).eval()


@pytest.fixture
def make_dream() -> Callable[..., demask_hf.DreamModel]:
    """Return the function that builds a tiny random Dream."""
    return build_dream


@pytest.fixture
def make_head() -> Callable[..., demask_hf.DemaskHead]:
    """Return the function that builds a random head for a Dream."""
    return build_head


@pytest.fixture(scope="module")
def dream() -> demask_hf.DreamModel:
    """Return a tiny random Dream without a head; tests leave it as it is."""
    return build_dream()


@pytest.fixture(scope="module")
def dream_with_head() -> demask_hf.DreamModel:
    """Return a tiny random Dream with a random head; tests leave it as it is."""
    model = build_dream()
    model.set_demask_head(build_head(model))
    return model


@pytest.fixture(scope="module")
def dream_with_wide_head() -> demask_hf.DreamModel:
    """Return a tiny random Dream whose random head predicts large and small dependencies; tests leave it as it is."""
    model = build_dream()
    model.set_demask_head(build_head(model))
    with torch.no_grad():
        model.demask_head.scorer.bias.fill_(2.5)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer for the doubles' vocabulary: words w3 to w23, separated by spaces."""
    vocabulary = {"<pad>": PAD, "<mask>": MASK, "<eos>": EOS, **{f"w{index}": index for index in range(3, 24)}}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>", padding_side="left"
    )


@pytest.fixture(scope="session")
def spelling() -> PreTrainedTokenizerFast:
    """Return a tokenizer that can spell everything, as stop strings need it: one token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": PAD, "<mask>": MASK, "<eos>": EOS, **{byte: 3 + i for i, byte in enumerate(alphabet)}}
    tokens = Tokenizer(models.BPE(vocabulary, []))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>", padding_side="left"
    )


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return (os.mkdir, (self.file,))


@pytest.fixture
def trap(tmp_path):
    """Return the content of a pickle, and check that nobody unpickled it."""
    yield pickle.dumps({"weight": Malicious(tmp_path / "trapped")})
    assert not (tmp_path / "trapped").exists()


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Return the folder of recorded outputs of public decoders."""
    return Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def hub_dream() -> Path:
    """Return the folder with the files of Dream-v0-Instruct-7B; skip where they are not beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / "dream-tokenizer"
    if not folder.is_dir():
        pytest.skip("needs the Hub's Dream files in ../shared/data/dream-tokenizer, beside the repository")
    return folder


class TablePredict:
    """Predictions for a state of `size` masks and nothing else, from a function of the tokens and the position.

    Tokens run from 0 to `vocab_size - 1`, the mask comes after them. `calls` keeps the sequences of every forward.
    """

    def __init__(self, size: int, vocab_size: int, distribution: Callable[[list[int], int], torch.Tensor]):
        self.mask, self.distribution = vocab_size, distribution
        self.sequence = torch.full((size,), vocab_size)
        self.calls: list[torch.LongTensor] = []

    def __call__(self, sequences, rows, asked):
        self.calls.append(sequences.clone())
        pairs = asked.nonzero().tolist()
        found = [self.distribution(sequences[row].tolist(), column) for row, column in pairs]
        return torch.nn.functional.pad(torch.stack(found), (0, 1))


@pytest.fixture
def joint_predict() -> Callable[[torch.Tensor], TablePredict]:
    """Return a function from a joint table, one axis a position, to predictions that are its conditionals."""

    def build(joint) -> TablePredict:
        table = torch.as_tensor(joint, dtype=torch.float64)
        mask = table.shape[0]

        def distribution(tokens, target):
            tokens = [mask if column == target else token for column, token in enumerate(tokens)]
            place = sum(token == mask for token in tokens[:target])
            given = table[tuple(slice(None) if token == mask else token for token in tokens)]
            marginal = given.movedim(place, 0).flatten(1).sum(dim=1) if given.ndim > 1 else given
            # After an impossible context anything may be predicted.
            return marginal / marginal.sum() if marginal.any() else torch.full_like(marginal, 1 / mask)

        return TablePredict(table.ndim, mask, distribution)

    return build


@pytest.fixture
def unrelated_predict() -> Callable[[int, int, int], TablePredict]:
    """Return a function from size, vocabulary and seed to random predictions that no joint agrees with."""

    def build(size: int, vocab_size: int, seed: int) -> TablePredict:
        def distribution(tokens, target):
            generator = torch.Generator().manual_seed(hash((seed, target, *tokens)) % (1 << 60))
            return torch.rand(vocab_size, generator=generator, dtype=torch.float64).pow(3).softmax(dim=0)

        return TablePredict(size, vocab_size, distribution)

    return build


@pytest.fixture
def xor_joint() -> torch.Tensor:
    """Return the joint of two fair bits and their exclusive or: pairwise independent, and dependent as a whole."""
    joint = torch.zeros(2, 2, 2)
    for first in range(2):
        for second in range(2):
            joint[first, second, first ^ second] = 0.25
    return joint


@pytest.fixture
def benchmark(monkeypatch) -> Callable[[str], ModuleType]:
    """Return a function that imports a script of the folder `benchmarks` by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module

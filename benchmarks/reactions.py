"""Compare strategies on a pretrained masked language model of chemical reactions, the ALBERT inside rxnmapper.

    pip install --no-deps rxnmapper==0.4.3
    python benchmarks/reactions.py --out docs/results/reactions.json

Tokens of reaction SMILES are masked and filled in again with every strategy and several limits, none of them chosen
after the fact. The dependency head is trained on other reactions of the same kinds. What was measured and decoded is
kept in the work folder, so that an interrupted run goes on where it was. What is compared is the share of
masked tokens that come back as they were: another token may be right in chemistry and still counts as wrong.
"""

import argparse
import json
from importlib import metadata
from itertools import product
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AlbertConfig, AlbertForMaskedLM, PreTrainedTokenizerFast

import demask_hf
from demask_hf.backbones.backbone import backbone_facts
from demask_hf.evaluation.statistics import paired_difference
from demask_hf.training.examples import DependencyExample, measure_examples
from demask_hf.training.trainer import fit_of, new_head, train_head


# A benzene ring with a place for a group; groups that close a ring of their own number it 2.
RINGS = ["c1ccc({})cc1", "Cc1ccc({})cc1", "COc1ccc({})cc1", "Clc1ccc({})cc1", "Fc1ccc({})cc1", "N#Cc1ccc({})cc1"]
RINGS += ["FC(F)(F)c1ccc({})cc1", "Cc1cccc({})c1", "COc1cccc({})c1", "Clc1cccc({})c1", "Fc1cccc({})c1"]
RINGS += ["COC(=O)c1ccc({})cc1", "Cc1cc(C)cc({})c1", "CCOc1ccc({})cc1"]
AMINES = ["NCc2ccccc2", "NCC(C)C", "NC2CCCCC2", "Nc2ccccc2", "NCCO", "NCCc2ccccc2", "N2CCOCC2", "N2CCCC2"]
AMINES += ["N2CCCCC2", "NC(C)C", "NCc2ccc(F)cc2", "Nc2ccc(Cl)cc2", "NC2CC2", "NCCOC", "NCc2ccncc2"]
ARYLS = ["c2ccccc2", "c2ccc(C)cc2", "c2ccc(OC)cc2", "c2ccc(F)cc2", "c2cccc(Cl)c2", "c2ccncc2", "c2ccsc2"]
# Kind of reaction: what the ring bears before, the partner and reagents, what the ring bears after, the partners.
KINDS = [
    ("C(=O)O", "{}", "C(=O){}", AMINES),
    ("C(=O)Cl", "{}.ClCCl", "C(=O){}", AMINES),
    ("S(=O)(=O)Cl", "{}.ClCCl", "S(=O)(=O){}", AMINES),
    ("C=O", "{}.[BH4-].[Na+]", "C{}", AMINES),
    ("Br", "OB(O){}.[Pd]", "-{}", ARYLS),
    ("O", "BrC{}.[Na+].[H-]", "OC{}", ARYLS),
    ("N", "O=C(Cl){}.ClCCl", "NC(=O){}", ARYLS),
]
# From the documentation and the tests of rxnmapper.
FROM_WHEEL = [
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
    "C=CCN=C=S.CNCc1ccc(C#N)cc1.NNC(=O)c1cn2c(n1)CCCC2>>C=CCN1C(C2=CN3CCCCC3=N2)=NN=C1N(C)CC1=CC=C(C#N)C=C1",
    "CCC[O-]~[Na+].BrCC>>CCOCCC",
    "NCC[O-]~[Na+].BrCC>>NCCOCC",
]
SETTINGS = {
    "sequential, confidence": {"name": "sequential"},
    "schedule, 5 steps": {"name": "schedule", "max_denoising_steps": 5},
    **{f"threshold {limit:g}": {"name": "threshold", "confidence_threshold": limit} for limit in (0.9, 0.7, 0.5)},
    "factor 1": {"name": "threshold", "factor": 1.0},
    **{f"entropy bound {limit:g}": {"name": "entropy_bound", "entropy_bound": limit} for limit in (0.1, 0.5)},
    "klass 0.9": {"name": "klass"},
    "dawn": {"name": "dawn"},
    "dawn, edges 0.02": {
        **{"name": "dawn", "confidence_threshold": 0.0, "induced_threshold": 0.9, "anchor_threshold": 0.98},
        **{"sink_threshold": 1.0, "edge_threshold": 0.02},
    },
    "dapd": {"name": "dapd"},
    **{f"demask token {limit:g}": {"name": "demask", "dependency_bound": limit} for limit in (0.03, 0.1, 0.3)},
    "demask total 0.3": {"name": "demask", "rule": "total", "dependency_bound": 0.3},
    "sequential, left to right": {"name": "sequential", "order": "left_to_right"},
}


def load_model(cache: Path) -> tuple[AlbertForMaskedLM, PreTrainedTokenizerFast]:
    """Return rxnmapper's ALBERT with our `generate`, and a tokenizer for its vocabulary.

    Its weights come as a pickle, which is read once, without running code from it, and kept as safetensors.

    Args:
        cache (`Path`):
            Folder for the converted checkpoint.

    Raises:
        ModuleNotFoundError: if rxnmapper is not installed.
    """
    if not (cache / "config.json").exists():
        try:
            files = {file.name: file.locate() for file in metadata.files("rxnmapper") if "models" in file.parts}
        except metadata.PackageNotFoundError as error:
            raise ModuleNotFoundError("rxnmapper is missing: pip install --no-deps rxnmapper==0.4.3") from error
        weights = torch.load(files["pytorch_model.bin"], map_location="cpu", weights_only=True)
        cache.mkdir(parents=True, exist_ok=True)
        # A tied tensor stands in the pickle once for each of its names; a masked language model has no pooler.
        weights = {name: tensor.clone() for name, tensor in weights.items() if "pooler" not in name}
        save_file(weights, cache / "model.safetensors", {"format": "pt"})
        _tokenizer(Path(files["vocab.txt"]).read_text(encoding="utf-8").split("\n")).save_pretrained(cache)
        fields = json.loads(Path(files["config.json"]).read_text(encoding="utf-8"))
        names = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
        names += ("intermediate_size", "max_position_embeddings", "hidden_act", "layer_norm_eps", "pad_token_id")
        AlbertConfig(**{name: fields[name] for name in names}).save_pretrained(cache)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(cache)
    return demask_hf.attach(AlbertForMaskedLM.from_pretrained(cache).eval(), tokenizer=tokenizer), tokenizer


def _tokenizer(tokens: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole atoms, bonds and ring numbers; a token that is listed twice has its last id."""
    vocabulary = {token: index for index, token in enumerate(tokens) if token}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    pattern = Regex(r"\[[^\]]+\]|Br|Cl|>>|%\d\d|.")
    backend.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    special = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("CLS", "SEP", "MASK", "PAD", "UNK")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", **names)


def reactions(seed: int) -> list[str]:
    """Return all reactions of the table above as SMILES, shuffled."""
    found = []
    for before, partner, after, partners in KINDS:
        for ring, other in product(RINGS, partners):
            # Alone, the partner's ring has the number 1.
            alone = partner.format(other).replace("2", "1")
            found.append(f"{ring.format(before)}.{alone}>>{ring.format(after.format(other))}")
    found = sorted(set(found))
    Random(seed).shuffle(found)
    return found


def masked_batches(tokenizer, texts: list[str], seed: int, size: int = 32) -> list[dict[str, torch.Tensor]]:
    """Return left-padded batches with `sequences`, `attention_mask` and `truth`, 15 to 60 % of each row masked."""
    generator = torch.Generator().manual_seed(seed)
    special = torch.tensor([tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id])
    batches = []
    for start in range(0, len(texts), size):
        inputs = tokenizer(texts[start : start + size], padding=True, return_tensors="pt")
        truth = inputs["input_ids"]
        may_be_masked = ~torch.isin(truth, special)
        ratios = 0.15 + 0.45 * torch.rand(truth.shape[0], 1, generator=generator)
        noise = torch.rand(truth.shape, generator=generator).masked_fill(~may_be_masked, 2.0)
        is_masked = (
            noise.argsort(-1).argsort(-1) < (ratios * may_be_masked.sum(-1, keepdim=True)).ceil()
        ) & may_be_masked
        sequences = truth.masked_fill(is_masked, tokenizer.mask_token_id)
        batches.append({"sequences": sequences, "attention_mask": inputs["attention_mask"], "truth": truth})
    return batches


def measured(model, tokenizer, texts: list[str], seed: int, num_sources: int) -> list[DependencyExample]:
    """Return masked states of reactions with the dependencies of a few sources."""
    backbone, generator = demask_hf.Backbone.of(model), torch.Generator().manual_seed(seed)
    examples = []
    for batch in masked_batches(tokenizer, texts, seed):
        sequences = batch["sequences"]
        candidates = sequences == tokenizer.mask_token_id
        examples += measure_examples(
            backbone, sequences, batch["attention_mask"], candidates, num_sources, generator, min_probability=0.01
        )
        print(f"measured {len(examples)} of {len(texts)} states", flush=True)
    return examples


def build_head(model, tokenizer, texts: list[str], held_out: list[str], work: Path, arguments) -> dict[str, float]:
    """Train a head on reactions, put it beside the model, and return its fit on held-out ones."""
    files = [work / "train.pt", work / "held_out.pt"]
    for file, part, seed in zip(files, (texts, held_out), (1, 2), strict=True):
        if not file.exists():
            torch.save([vars(example) for example in measured(model, tokenizer, part, seed, 8)], file)
    states, rest = ([DependencyExample(**fields) for fields in torch.load(file, weights_only=True)] for file in files)
    if (work / "head" / "config.json").exists():
        head = model.load_demask_head(str(work / "head"))
        return fit_of(head, states, rest)
    head = new_head(backbone_facts(model), 0, width=arguments.width)
    schedule = {"max_steps": arguments.steps, "learning_rate": 2e-3, "warmup_steps": 50, "weight_decay": 0.01}
    schedule |= {"per_device_train_batch_size": 32, "lr_scheduler_type": "cosine", "save_strategy": "no", "seed": 0}
    fit = train_head(head, states, rest, work / "training", disable_tqdm=True, use_cpu=True, **schedule)
    head.save_pretrained(work / "head")
    model.set_demask_head(head)
    return fit


def decode(model, batches: list[dict[str, torch.Tensor]], setting: dict) -> dict[str, np.ndarray]:
    """Return for each state the share of masked tokens that came back, and its forward passes."""
    strategy = dict(setting)
    overrides = {name: strategy.pop(name) for name in ("max_denoising_steps",) if name in strategy}
    accuracy, passes = [], []
    for batch in batches:
        output = model.generate(
            batch["sequences"],
            batch["attention_mask"],
            strategy=strategy,
            max_new_tokens=0,
            return_dict_in_generate=True,
            **overrides,
        )
        is_masked = output.unmask_step >= 0
        is_right = (output.sequences == batch["truth"]) & is_masked
        accuracy.append((is_right.sum(dim=-1) / is_masked.sum(dim=-1)).numpy())
        passes.append(output.num_forward_passes.numpy())
    return {"accuracy": np.concatenate(accuracy), "num_forward_passes": np.concatenate(passes)}


def report(outcomes: dict[str, dict[str, np.ndarray]]) -> list[dict]:
    """Return a row per setting: means, and the paired difference from one token per forward pass."""
    reference = outcomes["sequential, confidence"]
    rows = []
    for name, outcome in outcomes.items():
        difference = paired_difference(outcome["accuracy"], reference["accuracy"])
        passes = float(outcome["num_forward_passes"].mean())
        rows.append(
            {
                "row": name,
                "setting": SETTINGS[name],
                "accuracy": float(outcome["accuracy"].mean()),
                "all_right": float((outcome["accuracy"] == 1).mean()),
                "difference": difference.mean,
                "lower": difference.lower,
                "upper": difference.upper,
                "num_forward_passes": passes,
                "speed_up": float(reference["num_forward_passes"].mean()) / passes,
                "num_states": difference.num_prompts,
            }
        )
    return rows


def main() -> None:
    """Train the head, decode with every setting and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/reactions"))
    parser.add_argument("--train", type=int, default=256, help="reactions to train the head on")
    parser.add_argument("--held-out", type=int, default=64, help="reactions to report the head's fit on")
    parser.add_argument("--test", type=int, default=200, help="reactions to decode")
    parser.add_argument("--steps", type=int, default=600, help="training steps of the head")
    parser.add_argument("--width", type=int, default=64, help="width of the head")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(arguments.work / "albert")
    texts = reactions(seed=0)
    # By length, so that the rows of a batch need little padding.
    test, texts = sorted(texts[: arguments.test] + FROM_WHEEL, key=len), texts[arguments.test :]
    train, held_out = texts[: arguments.train], texts[arguments.train :][: arguments.held_out]
    fit = build_head(model, tokenizer, train, held_out, arguments.work, arguments)
    print(f"head: {fit}", flush=True)
    batches = masked_batches(tokenizer, test, seed=3)
    outcomes = {}
    for name, setting in SETTINGS.items():
        file = arguments.work / f"decoded-{arguments.test}-{name}.npz"
        if not file.exists():
            np.savez(file, **decode(model, batches, setting))
        outcomes[name] = dict(np.load(file))
        means = {field: round(float(values.mean()), 4) for field, values in outcomes[name].items()}
        print(f"{name}: {means}", flush=True)
    rows = report(outcomes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"head": fit, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print("| setting | tokens right | difference (95 % bounds) | all right | forward passes | speed-up |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['row']} | {row['accuracy']:.1%} | {100 * row['difference']:+.1f} ({100 * row['lower']:+.1f}, "
            f"{100 * row['upper']:+.1f}) | {row['all_right']:.1%} | {row['num_forward_passes']:.2f} | "
            f"{row['speed_up']:.2f}x |"
        )


if __name__ == "__main__":
    main()

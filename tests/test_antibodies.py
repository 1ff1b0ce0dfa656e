"""The benchmark on a pretrained model of antibodies: on a small random model without the wheel, and with it."""

import json
from importlib import metadata
from math import log
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from demask_hf.backbones.backbone import Backbone


ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data" / "antibodies" / "therapeutic.tsv"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]
CHAIN = "EVQLLESGG" + "A" * 62 + "DTAVYYCARGECDYWGQGTLVTVSS"


def _has_wheel():
    try:
        return bool(metadata.version("antiberty"))
    except metadata.PackageNotFoundError:
        return False


needs_wheel = pytest.mark.skipif(
    not _has_wheel(), reason="needs the wheel with the model: pip install --no-deps antiberty==0.1.3"
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A folder like that of the wheel, with a small random model."""
    folder = tmp_path_factory.mktemp("wheel")
    checkpoint = folder / "antiberty" / "trained_models" / "AntiBERTy_md_smooth"
    checkpoint.mkdir(parents=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=25, max_position_embeddings=160, initializer_range=0.3, **sizes))
    classifier = {"cls.species.weight": torch.zeros(6, 32), "bert.pooler.dense.bias": torch.zeros(32)}
    torch.save({**model.state_dict(), **classifier}, checkpoint / "pytorch_model.bin")
    (checkpoint / "config.json").write_text(json.dumps(model.config.to_dict()), encoding="utf-8")
    (checkpoint.parent / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return folder


@pytest.fixture
def loaded(benchmark, wheel, tmp_path):
    return benchmark("antibody_model").load_model(tmp_path / "cache", wheel, "float32")


@pytest.mark.parametrize(
    ("residues", "loop"),
    [
        (CHAIN, "ARGECDY"),
        # A cysteine of the loop, and the one at the start of the framework.
        (CHAIN.replace("ARGECDY", "ARCSGGSCDY").replace("EVQ", "EVC"), "ARCSGGSCDY"),
        # The last of two second anchors.
        (CHAIN.replace("ARGECDY", "ARWGSGFDY"), "ARWGSGFDY"),
        (CHAIN.replace("WGQG", "RGQG"), None),
        (CHAIN.replace("ARGECDY", "AR"), None),
        (CHAIN.replace("YYC", "YYS").replace("ARGECDY", "ARGEGDY"), None),
        (CHAIN.replace("EVQ", "EVX"), None),
        ("", None),
    ],
)
def test_loops_lie_between_their_anchors(benchmark, residues, loop):
    chain = benchmark("antibody_chains").chain_of("made up", residues)
    assert (chain and chain.loop) == loop


def test_chains_are_read_and_generated(benchmark, tmp_path):
    chains = benchmark("antibody_chains")
    file = tmp_path / "chains.tsv"
    file.write_text(f"name\theavy\tlight\nb\t{CHAIN}\t\na\t{CHAIN}\t\nc\t\tEVQ\n", encoding="utf-8")
    assert [chain.name for chain in chains.read_chains(file)] == ["a", "b"]
    generated = chains.generated_chains(50, seed=0)
    assert generated == chains.generated_chains(50, seed=0) != chains.generated_chains(50, seed=1)
    assert all(chain.loop.startswith("AR") for chain in generated)


def test_no_loops_of_two_parts_are_alike(benchmark):
    chains = benchmark("antibody_chains")
    loops = ["AAAAAAAAAA", "AAAAAAAACC", "AAAAAAACCC", "AAAAAAAAAAA", "AAAAAAAAAA"]
    made = [chains.Chain(str(number), loop, 0, len(loop)) for number, loop in enumerate(loops)]
    # The second has 8 of 10 residues in common with the first, the third 7.
    assert [chain.name for chain in chains.unlike(made)] == ["0", "2", "3"]
    parts = chains.split(chains.generated_chains(200, seed=0), 20, 10)
    assert [len(part) for part in parts[1:]] == [10, 20]
    assert len(chains.unlike([chain for part in parts for chain in part])) == sum(map(len, parts))
    with pytest.raises(ValueError, match="must leave chains to train on, got 2 and 1 of 3"):
        chains.split(made, 2, 1)


def test_a_missing_wheel_is_named(benchmark, monkeypatch, tmp_path):
    module = benchmark("antibody_model")

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(module.metadata, "distribution", missing)
    with pytest.raises(ModuleNotFoundError, match=r"antiberty is missing: pip install --no-deps antiberty==0\.1\.3"):
        module.load_model(tmp_path / "cache")


@pytest.mark.parametrize("task", ["loop", "span"])
def test_places_to_write(benchmark, loaded, task):
    model, tokenizer = loaded
    chains = [benchmark("antibody_chains").chain_of("made up", text) for text in (CHAIN, CHAIN[5:])]
    batch = benchmark("antibody_model").batch_of(tokenizer, chains, task, seed=3)
    assert batch.attention_mask.sum(dim=-1).tolist() == [len(CHAIN) + 2, len(CHAIN) - 3]
    for row in range(2):
        places = batch.is_open[row].nonzero().squeeze(-1)
        written = "".join(tokenizer.convert_ids_to_tokens(batch.truth[row, places].tolist()))
        assert written == "ARGECDY" if task == "loop" else len(written) == 12 and written in CHAIN
    special = torch.tensor(tokenizer.all_special_ids)
    assert not torch.isin(batch.truth[batch.is_open], special).any()
    assert (batch.masked(tokenizer.mask_token_id)[batch.is_open] == tokenizer.mask_token_id).all()


def test_likelihoods_by_hand(benchmark, loaded):
    model, tokenizer = loaded
    chain = benchmark("antibody_chains").chain_of("made up", CHAIN)
    batch = benchmark("antibody_model").batch_of(tokenizer, [chain], "loop")
    first, second = batch.is_open[0].nonzero().squeeze(-1)[:2].tolist()
    batch.is_open[0, second + 1 :] = False

    def distribution(sequence, place):
        logits = model(sequence, batch.attention_mask).logits[0, place].double()
        return logits[len(tokenizer.all_special_ids) :].log_softmax(dim=-1).detach()

    def logs(sequence, place):
        return float(distribution(sequence, place)[batch.truth[0, place] - len(tokenizer.all_special_ids)])

    whole = batch.masked(tokenizer.mask_token_id)
    after_second = whole.clone()
    after_second[0, second] = batch.truth[0, second]
    function, backbone = benchmark("infill_scores").likelihoods, Backbone.of(model)
    steps = torch.zeros_like(batch.truth)
    steps[0, first] = 1
    one_at_a_time, together, divergence = function(backbone, batch, batch.truth, steps)
    assert float(divergence) == 0
    assert float(one_at_a_time) == pytest.approx(logs(whole, second) + logs(after_second, first), abs=1e-4)
    assert float(together) == pytest.approx(float(one_at_a_time))
    one_at_a_time, together, divergence = function(backbone, batch, batch.truth, torch.zeros_like(steps))
    after_first = whole.clone()
    after_first[0, first] = batch.truth[0, first]
    assert float(one_at_a_time) == pytest.approx(logs(whole, first) + logs(after_first, second), abs=1e-4)
    assert float(together) == pytest.approx(logs(whole, first) + logs(whole, second), abs=1e-4)
    drawn, given = distribution(whole, second), distribution(after_first, second)
    assert float(divergence) == pytest.approx(float((drawn.exp() * (drawn - given)).sum()), abs=1e-4)


def test_the_study_end_to_end(benchmark, wheel, tmp_path, monkeypatch):
    study, shared, tables = benchmark("antibodies"), benchmark("infill_study"), benchmark("infill_tables")
    names = ("sequential", "demask 0.1, influence", "distance, gap 1", "distance, gap 2", "table 0.1")
    for module in (study, benchmark("antibody_model")):
        monkeypatch.setattr(module, "PARTS", {6: 6})
    monkeypatch.setattr(study, "SETTINGS", {name: study.SETTINGS[name] for name in names})
    monkeypatch.setattr(shared, "EXACT", {name: own for name, own in shared.EXACT.items() if "0.1" in name})
    monkeypatch.setattr(shared, "BESIDE", ("demask 0.1, influence", "distance, gap 2"))
    counts = {"states": 6, "num-test": 4, "num-held-out": 3, "measured": 2, "visited": 3, "steps": 2}
    counts |= {"rows": 2, "span-rows": 2, "head-rows": 2, "exact-rows": 1, "width": 16}
    arguments = [f"--{name}={count}" for name, count in counts.items()]
    arguments += [f"--work={tmp_path / 'work'}", f"--data={tmp_path / 'none'}", f"--wheel={wheel}", "--dtype=float32"]
    study.main([*arguments, f"--out={tmp_path / 'out'}"])
    written = [tmp_path / "out" / name for name in ("antibodies.json", "records/antibodies.json.xz")]
    before = [file.read_bytes() for file in written]
    # Everything is there already.
    monkeypatch.setattr(shared, "decode", None)
    study.main([*arguments, f"--out={tmp_path / 'out'}"])
    assert before == [
        (tmp_path / "out" / name).read_bytes() for name in ("antibodies.json", "records/antibodies.json.xz")
    ]
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "out")
    tables.outcomes_of.cache_clear()
    rows = {row["setting"]: row for row in tables.rows_of(tables.outcomes_of("antibodies")["loop"])}
    assert list(rows) == [*names, *shared.SHARPENING]
    assert rows["sequential"]["excess"][0] == pytest.approx(0, abs=1e-5)
    assert rows["distance, gap 1"]["passes"] == 1
    for name, table in tables.TABLES.items():
        part = "antibodies.loop" if name in ("strategies", "drawn", "front") else "antibodies"
        assert len(table(part)) > 2
    assert tables.front_table("antibodies.loop:2") == tables.front_table("antibodies.loop")
    tables.draw(tmp_path / "figure.png", "antibodies.loop")
    tables.outcomes_of.cache_clear()


def test_rows_by_hand(benchmark):
    tables = benchmark("infill_tables")

    def chain(written, own, chain_log_q, passes):
        facts = {"written": written, "num_forward_passes": passes, "num_probe_passes": 0, "num_right": 1}
        return {**facts, "steps_log_q": chain_log_q, "divergence": own - chain_log_q}

    found = {
        "sequential": [chain("AC", -2.0, -2.0, 2), chain("AC", -4.0, -4.0, 2)],
        "table 0.1": [chain("AA", -2.0, -2.4, 1), chain("AA", -4.0, -4.0, 1)],
        "table 0.2": [chain("AA", -2.0, -3.0, 0.5), chain("AA", -4.0, -4.0, 0.5)],
    }
    rows = tables.rows_of(found)
    assert rows[0]["excess"] == (0, 0)
    assert rows[0]["entropy"] == pytest.approx(log(2))
    assert rows[1]["entropy"] == 0
    assert rows[1]["recovered"] == 0.5
    # Two chains of two residues: 0.2 and 0 nats a residue.
    assert rows[1]["excess"] == pytest.approx((0.1, 0.1))
    assert rows[1]["difference"] == pytest.approx((-0.1, 0.1))
    found["table 0.1"][0]["left_log_q"] = -2.8
    assert tables.rows_of(found)[1]["difference"] == pytest.approx((-0.15, 0.15))


def test_fronts_by_hand(benchmark):
    fronts = benchmark("infill_fronts")

    def rows(*facts):
        return [{"written": "AA", "num_forward_passes": passes, "divergence": 2 * loss} for loss, passes in facts]

    found = {
        "demask 0.1, partition": rows((0.1, 1), (0.1, 1)),
        "demask 0.2, partition": rows((0.3, 0.5), (0.3, 0.5)),
        "table 0.1": rows((0.2, 1), (0.0, 1)),
        "table 0.2": rows((0.4, 0.5), (0.2, 0.5)),
        "schedule, 2 steps": rows((0.5, 2), (0.5, 2)),
    }
    demask, table, schedule = fronts.front_rows(found, (0.15, 0.25, 0.4))
    # From 1 pass at 0.1 nats down to half a pass at 0.3; the rows are alike.
    assert demask["rule"] == "demask, partition"
    assert demask["passes"] == {0.15: (pytest.approx(0.875), 0), 0.25: (pytest.approx(0.625), 0)}
    assert demask["ratio"] == {}
    # The same between both losses of `table`. Without a row its curve moves by 0.1 nats, where it does not end.
    assert table["passes"][0.15] == (pytest.approx(0.875), pytest.approx(((1 - 0.625) ** 2 / 4) ** 0.5))
    assert table["passes"][0.25] == (pytest.approx(0.625), pytest.approx(((0.875 - 0.5) ** 2 / 4) ** 0.5))
    # Two rows leave one degree of freedom, whose quantile is 12.7.
    error = log(1 / 0.625) / 2
    ratio, lower, upper = table["ratio"][0.15]
    assert (ratio, log(lower), log(upper)) == pytest.approx((1, -12.706 * error, 12.706 * error), rel=1e-3)
    # One point has no line.
    assert schedule == {"rule": "schedule", "passes": {}, "ratio": {}}


def test_fronts_know_how_much_they_vary(benchmark):
    """Over many draws of rows, the interval of the ratio holds the true one about as often as it says."""
    fronts, generator = benchmark("infill_fronts"), np.random.default_rng(0)
    # Passes fall from 4 to 2 while the loss grows from 0.1 to 0.3; `table` needs 1.5 times as many.
    held = 0
    for _ in range(300):
        difficulty = generator.normal(size=(2, 40)) * 0.05

        def rows(passes, loss, own):
            return [
                {"written": "A", "num_forward_passes": passes * (1 + extra), "divergence": loss + extra}
                for extra in own
            ]

        own = difficulty[0]
        found = {f"demask {loss}, partition": rows(passes, loss, own) for loss, passes in ((0.1, 4), (0.3, 2))}
        own = own + difficulty[1]
        found |= {f"table {loss}": rows(passes, loss, own) for loss, passes in ((0.1, 6), (0.3, 3))}
        _, table = fronts.front_rows(found, (0.2,))
        _, lower, upper = table["ratio"][0.2]
        held += lower <= 1.5 <= upper
    assert 0.9 < held / 300 < 0.99


@needs_wheel
def test_the_model_knows_antibodies(benchmark, tmp_path):
    """Framework residues are known from the rest: the weights are read right."""
    module, chains = benchmark("antibody_model"), benchmark("antibody_chains")
    model, tokenizer = module.load_model(tmp_path / "cache", dtype="float32")
    batch = module.batch_of(tokenizer, chains.generated_chains(4, seed=0), "loop")
    is_hidden = torch.zeros_like(batch.is_open)
    is_hidden[:, 20:80:12] = True
    with torch.no_grad():
        masked = batch.truth.masked_fill(is_hidden, tokenizer.mask_token_id)
        found = model(masked, attention_mask=batch.attention_mask).logits.argmax(dim=-1)
    assert (found == batch.truth)[is_hidden].float().mean() > 0.8


@pytest.mark.skipif(not DATA.is_file(), reason="needs ../shared/data/antibodies/therapeutic.tsv")
def test_loops_of_therapeutic_antibodies(benchmark):
    chains = benchmark("antibody_chains")
    found = chains.read_chains(DATA)
    assert len(found) == 594
    assert {chain.residues[chain.start - 1] for chain in found} == {"C"}
    assert 12 < sum(len(chain.loop) for chain in found) / len(found) < 13
    assert [len(part) for part in chains.split(found, 200, 40)] == [283, 40, 200]

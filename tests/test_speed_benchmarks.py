"""The benchmarks of speed at reduced size: that they run, and that what they compare is comparable."""

import json

import pytest
import torch


def test_a_fixed_schedule_decodes_alike_whatever_rule_it_asks(benchmark):
    common = benchmark("speed_common")
    model = common.build_model("tiny", "cpu")
    prompts = common.random_prompts(model, 2, 5)
    arguments = {"max_new_tokens": 12, "stop_at_eos": False, "return_dict_in_generate": True}
    outputs = [
        model.generate(prompts, strategy=common.FixedSchedule(rule=rule, num_per_step=5), **arguments)
        for rule in ("threshold", "demask")
    ]
    assert outputs[0].num_forward_passes.tolist() == outputs[1].num_forward_passes.tolist() == [3, 3]
    assert outputs[0].sequences.tolist() == outputs[1].sequences.tolist()


def test_variants_take_turns(benchmark):
    order = []
    variants = {name: lambda name=name: order.append(name) for name in "ab"}
    seconds = benchmark("speed_common").interleaved(variants, 2)
    assert order == ["a", "b"] * 3
    assert [len(spent) for spent in seconds.values()] == [2, 2]


def test_ratios_are_taken_round_by_round(benchmark):
    assert benchmark("speed_common").median_ratio([1.0, 20.0, 3.0], [2.0, 10.0, 3.0]) == 1.0


UNMEASURED = ("shape", "compile", "overhead", "max_candidates", "demask selection")


@pytest.mark.parametrize("name", ["overhead", "floor", "share", "scaling"])
def test_each_table_of_steps_is_made(benchmark, name, tmp_path, capsys):
    arguments = ["--shapes", "2m", "--lengths", "32", "--steps", "2", "--rounds", "1"]
    (row,) = benchmark("speed").main([name, *arguments, "--out", str(tmp_path / "out.json")])
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"] == [row]
    assert written["torch"] == torch.__version__
    assert all(value > 0 for column, value in row.items() if column not in UNMEASURED)
    assert capsys.readouterr().out.splitlines()[-1].startswith("| 2m | 32 | 1 |")


def test_a_share_says_which_selection_it_is_of(benchmark):
    arguments = ["--shapes", "2m", "--lengths", "32", "--rounds", "1", "--selection", "partition"]
    (row,) = benchmark("speed").main(["share", *arguments])
    assert row["demask selection"] == "partition"
    assert 0 < row["selection"] < 1


@pytest.mark.parametrize(
    "block", [pytest.param([], marks=pytest.mark.slow, id="whole"), pytest.param(["--block-length", "8"], id="blocks")]
)
def test_the_straightforward_way_writes_the_same_tokens(benchmark, block):
    arguments = ["--shape", "2m", "--length", "16", "--steps", "4", "--rounds", "1", *block]
    (row,) = benchmark("straightforward").main(arguments)
    assert row["same tokens"] == 1.0
    assert row["straightforward MiB"] >= 0


@pytest.mark.parametrize(
    ("name", "num_rows"), [("strategies", 4), pytest.param("caches", 10, marks=pytest.mark.slow), ("candidates", 4)]
)
def test_each_table_of_the_shipped_checkpoint_is_made(benchmark, name, num_rows):
    rows = benchmark("end_to_end").main([name, "--prompts", "1", "--rounds", "1"])
    assert len(rows) == num_rows
    assert all(0 <= row["right"] <= 1 for row in rows)


def test_growth_is_drawn(benchmark, tmp_path):
    share = {"shape": "2m", "batch": 1, "max_candidates": None, "head": 0.1, "selection": 0.01}
    rows = [{**share, "length": length} for length in (64, 128)] + [{**share, "length": 128, "max_candidates": 32}]
    times = {"shape": "2m", "batch": 1, "ms/token, none": 3.0, "ms/token, prefix": 2.0, "ms/token, dual": 1.0}
    rows += [{**times, "length": length} for length in (64, 128)] + [{**times, "length": 64, "batch": 8}]
    (tmp_path / "rows.json").write_text(json.dumps({"rows": rows}))
    benchmark("draw_speed").main([str(tmp_path / "rows.json"), "--out", str(tmp_path / "images" / "speed.png")])
    assert (tmp_path / "images" / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_compared_with_rows_alone(benchmark, tmp_path):
    arguments = ["decoding", "--prompts", "1", "--rounds", "1", "--dtypes", "bfloat16", "--strategies", "demask"]
    plain, cached = benchmark("row_identity").main([*arguments, "--out", str(tmp_path / "out.json")])
    assert (plain["strategy"], cached["strategy"]) == ("demask", "demask, block_cache=dual")
    assert json.loads((tmp_path / "out.json").read_text())["rows"] == [plain, cached]
    for row in (plain, cached):
        assert row["rows"] == 7
        assert row["invariant"] == 0
        assert 0 <= row["usual"] <= 7


def test_what_changes_the_logits_of_a_row_is_told_apart(benchmark):
    (row,) = benchmark("row_identity").main(["forward", "--prompts", "1", "--dtypes", "bfloat16"])
    assert list(row) == ["dtype", "rows", "mask of ones", "4 left", "4 right", "batch without padding"]
    assert row["rows"] == 7
    assert all(0 <= value <= 7 for name, value in row.items() if name != "dtype")

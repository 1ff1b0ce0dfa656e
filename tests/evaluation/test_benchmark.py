"""From a grid to table, figures and report, with records written by hand."""

import dataclasses
import json

import pytest

from demask_hf.cli.benchmark import _can_run
from demask_hf.cli.main import main
from demask_hf.evaluation.benchmark import markdown_table, run_benchmark, with_costs
from demask_hf.evaluation.examples import example_settings
from demask_hf.evaluation.figures import frontier_figure, order_figure
from demask_hf.evaluation.grid import DEFAULT_GRID, SAMPLING_GRID
from demask_hf.evaluation.records import Record
from demask_hf.evaluation.report import environment, reference_rows, write_report
from demask_hf.evaluation.runs import Run
from demask_hf.evaluation.specs import parse_settings
from demask_hf.strategies import strategy_names
from demask_hf.tasks import Task, TaskExample


TASKS = [
    Task(name, "", tuple(TaskExample(name, f"<{index}>", "") for index in range(20)), lambda example, answer: True)
    for name in ("pairs", "lists")
]
# Limit of the threshold -> share of right answers, forward passes.
KNOWN = {0.9: (1.0, 10), 0.7: (1.0, 6), 0.5: (0.9, 4), 0.3: (0.5, 2)}

# Other tests register strategies of their own.
BUILT_IN = strategy_names()


class FakeRun(Run):
    """A run whose records follow from the setting."""

    def records(self, setting):
        share, passes = KNOWN.get(setting.strategy.get("confidence_threshold"), (1.0, 20))
        if setting.options.get("stop_at_eos") is False:
            passes += 5
        return [
            [Record(example.prompt, "", (3, 4), (0, 1), passes, 0, 0.1, example.family, index < share * 40)]
            for index, example in enumerate(example for task in self.tasks for example in task.examples)
        ]


@pytest.fixture
def report(tmp_path):
    """Return the report of a threshold's grid, with its neighbours and what was decoded."""
    decoded = []
    grid = [parse_settings("sequential"), parse_settings("threshold:confidence_threshold=0.9/0.7/0.5/0.3")]
    runs = [FakeRun(TASKS, 1, tmp_path / split) for split in ("validation", "test")]
    found = run_benchmark(grid, *runs, lambda run, setting: decoded.append((run, setting)), 0.07, True)
    return found, decoded, runs


def test_the_cheapest_limit_without_loss_is_chosen_and_reported_with_its_neighbours(report):
    found, decoded, (validation, test) = report
    assert [row["label"] for row in found.rows() if row["is_chosen"]] == [
        "sequential",
        "threshold:confidence_threshold=0.7",
    ]
    assert [row["label"] for row in found.rows() if not row["is_chosen"]] == [
        "threshold:confidence_threshold=0.9",
        "threshold:confidence_threshold=0.5",
    ]
    # The loosest limit was never run on the test prompts.
    assert not any(run is test and setting.strategy.get("confidence_threshold") == 0.3 for run, setting in decoded)
    assert any(run is validation and setting.strategy.get("confidence_threshold") == 0.3 for run, setting in decoded)


def test_a_row_says_what_was_found(report):
    sequential, chosen, stricter, looser = report[0].rows()
    assert chosen["speed_up"]["value"] == pytest.approx(20 / 6)
    assert chosen["reference"] == "sequential:order=confidence"
    assert (chosen["difference"]["mean"], chosen["is_matched"]) == (0.0, True)
    assert chosen["whole_length_forward_passes"] == 11
    assert looser["difference"]["mean"] == pytest.approx(-0.1)
    assert not looser["is_matched"]
    assert looser["families"]["lists"]["accuracy"] == pytest.approx(0.8)
    assert [row["is_on_front"] for row in (sequential, chosen, stricter, looser)] == [True, True, False, True]


def test_nothing_is_chosen_without_validation_prompts(tmp_path):
    grid = [parse_settings("threshold:confidence_threshold=0.9/0.3")]
    found = run_benchmark(grid, None, FakeRun(TASKS, 1, tmp_path), lambda run, setting: None)
    assert [row["is_chosen"] for row in found.rows()] == [True, True]


def test_the_table_and_the_summary_hold_every_row(report, tmp_path):
    rows = report[0].rows()
    lines = markdown_table(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    # One at a time is compared with itself.
    assert lines[2].count("| reference ") == 5
    assert lines[3] == (
        "| threshold:confidence_threshold=0.7 | 100.0% | +0.00 (-6.34) | lists +0.00 (-11.92) | 1 | 6.00 | 0.33 | "
        "1.00 | 3.33x (3.33 to 3.33) | 67 | yes |"
    )
    report[0].write(tmp_path / "summary.json")
    written = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert written["rows"][1]["accuracy_sd"] is None
    assert written["rows"][1]["families"]["lists"]["accuracy"] == 1.0
    assert [row["difference"] for row in written["rows"]] == [row["difference"] for row in rows]
    assert len(written["validation"]) == 5


def test_accuracy_under_parallelism_is_that_of_all_limits(report):
    tokens_per_pass = [2 / 10, 2 / 6, 2 / 4, 2 / 2]
    row = "threshold"
    sweeps = report[0].sweeps()
    # The first 20 of 40 answers are those of "pairs".
    assert sweeps["pairs"][row] == [[each, 100.0] for each in tokens_per_pass]
    assert sweeps["lists"][row] == [
        list(pair) for pair in zip(tokens_per_pass, (100.0, 100.0, 80.0, 0.0), strict=True)
    ]
    scores = {each["row"]: each["aup"] for each in report[0].rows()}
    assert scores[row] == pytest.approx((100 + 100 / 3) / 2)
    assert scores["sequential"] == pytest.approx(100 * 2 / 20)


def test_row_forwards_and_probes_have_a_column_where_they_say_something(report):
    rows = report[0].rows()
    assert with_costs(["right", "forward passes", "p"], rows) == ["right", "forward passes", "p"]
    rows[1]["mean_row_forwards"] += 1
    rows[2]["mean_probe_passes"] = 3.0
    titles = ["right", "forward passes", "row forwards", "probe passes", "p"]
    assert with_costs(["right", "forward passes", "p"], rows) == titles
    assert "| forward passes | row forwards | probe passes |" in markdown_table(rows).splitlines()[0]


def test_every_strategy_is_in_the_default_grid_with_limits_that_are_read():
    settings = [setting for spec in (*DEFAULT_GRID, *SAMPLING_GRID) for setting in parse_settings(spec)]
    # A table is made for a model and a task.
    assert {setting.strategy["name"] for setting in settings} == {*BUILT_IN} - {"table"}
    for setting in settings:
        setting.build()
        setting.reference()


def test_the_default_grid_leaves_out_what_needs_shadows_where_there_are_none(dream, monkeypatch):
    (wino,), (plain,) = parse_settings("wino"), parse_settings("threshold")
    assert _can_run(dream, wino)
    monkeypatch.setattr(dream.config, "_attn_implementation", "flex_attention")
    assert not _can_run(dream, wino)
    assert _can_run(dream, plain)


def test_the_report_is_one_file_with_its_figures(report, tmp_path):
    rows = report[0].rows()
    frontier_figure(rows, tmp_path / "frontier.png")
    steps = {"one": [0, 1, 2], "two": [0, 0, -1]}
    order_figure(dict.fromkeys(steps, ["a", "b", "c"]), steps, tmp_path / "order.png")
    figures = {"front & back": tmp_path / "frontier.png", "order": tmp_path / "order.png"}
    write_report(tmp_path / "report.html", "A <title>", rows, {"model": "<m>", **environment()}, figures)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2
    assert page.count("<tr class=reference>") == 4
    assert page.count("<tr class=kept>") == 6
    assert "front &amp; back" in page
    assert "&lt;m&gt;" in page
    assert "<m>" not in page
    assert "http" not in page
    assert not list(tmp_path.glob("*.part"))


def test_references_that_are_no_setting_get_rows_of_their_own(report):
    assert reference_rows(report[0]) == []
    chosen = [each for each in report[0].chosen if not each.is_reference]
    (row,) = reference_rows(dataclasses.replace(report[0], chosen=chosen, neighbours=[]))
    assert row["is_reference"]
    assert row["is_chosen"]
    assert row["label"] == chosen[0].reference.setting.label


def test_examples_are_the_reference_and_the_fastest_settings_that_keep_the_accuracy(report):
    labels = [setting.label for setting in example_settings(report[0].chosen, margin=0.1)]
    assert labels == ["sequential:order=confidence", "threshold:confidence_threshold=0.7"]
    assert [setting.label for setting in example_settings(report[0].chosen, margin=0.0)] == labels[:1]


def test_the_command_compares_on_the_shipped_checkpoint(tmp_path, capsys):
    arguments = [
        "benchmark",
        "--out",
        str(tmp_path / "run"),
        "--task",
        "pairs",
        "--num-prompts",
        "4",
        "--device",
        "cpu",
    ]
    arguments += ["--num-validation", "3", "--compare", "demask:dependency_bound=0.03/0.06", "threshold"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert (tmp_path / "run" / "table.md").read_text().count("\n|") == 3
    assert all(len(line) <= 100 for line in first.splitlines()[:-1])
    written = {file.name for file in (tmp_path / "run").iterdir()}
    assert {"report.html", "summary.json", "table.md", "frontier.png", "order.png", "run.json"} <= written
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    # One token at a time, and the strategies that keep its accuracy.
    assert page.count("&quot;schemaVersion&quot;") >= 1
    assert "<dt>command</dt>" in page
    assert "<tr class=reference><td>sequential:order=confidence</td>" in page
    assert "<dt>prompts</dt><dd>validation 3, test 4</dd>" in page
    points = json.loads((tmp_path / "run" / "leaderboard.yaml").read_text())
    assert {row: len(limits) for row, limits in points["pairs"].items()} == {"demask": 2, "threshold": 1}
    assert main(arguments) == 0
    assert capsys.readouterr().out == first


def test_evaluate_prints_a_line_for_each_task(capsys):
    arguments = [
        "evaluate",
        "--task",
        "pairs",
        "lists",
        "--num-prompts",
        "2",
        "--strategy",
        "demask",
        "--device",
        "cpu",
    ]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["demask,", "task", "lists", "pairs", "all", "peak"]
    assert lines[3].split()[1:3] == ["100.00%", "2.00"]


def test_processes_that_share_the_work_need_a_folder(capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["evaluate", "--task", "pairs"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("demask-hf: error: `--out` must be given where several processes share the work")


def test_prompts_of_a_file_are_split_between_choice_and_report(tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    lines = [{"question": f"={index:02}, =01", "answer": f"#### {index}"} for index in range(5)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    arguments = ["benchmark", "--out", str(tmp_path / "run"), "--task", f"gsm8k={file}", "--num-prompts", "9"]
    arguments += ["--num-validation", "2", "--compare", "threshold", "--device", "cpu", "--max-new-tokens", "4"]
    assert main(arguments) == 0, capsys.readouterr().err
    prompts = [
        {
            json.loads(line)["prompt"]
            for records in (tmp_path / "run" / split).glob("*.jsonl")
            for line in records.read_text(encoding="utf-8").splitlines()
        }
        for split in ("validation", "test")
    ]
    assert [len(part) for part in prompts] == [2, 3]
    assert not prompts[0] & prompts[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--task", "sudoko"], "`name` must be one of pairs,"),
        (["evaluate", "--task", "gsm8k"], "`path` must be given for gsm8k"),
        (["evaluate", "--task", "humaneval=x"], "`allow_code_execution` must be True for humaneval"),
        (["evaluate", "--num-prompts", "0"], "`--num-prompts` must be an integer of at least 1, got 0"),
        (["evaluate", "--split", "dev"], "`split` must be one of train, validation, test, got 'dev'"),
        (
            ["evaluate", "--strategy", "threshold:factor=1/2"],
            "`--strategy` must be one setting, got 'threshold:factor",
        ),
        (["benchmark", "--out", "x", "--compare", "fast"], "`strategy` must be a registered name, got 'fast'"),
    ],
)
def test_bad_arguments_are_refused_before_a_model_is_loaded(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("demask_hf.models.loading.AutoModelForMaskedLM", None)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err

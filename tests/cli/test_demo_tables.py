"""What the demonstration concludes, from records written by hand."""

import subprocess
import sys

from demask_hf.cli.demo import comparison, table
from demask_hf.evaluation.records import Record


def _records(passes, wrong=()):
    families = ("pairs", "pairs", "shuffle", "shuffle", "parity", "parity")
    return [
        Record("p", "a", (3,) * 8, tuple(range(8)), passes + index % 2, 0, 0.1, family, index not in wrong)
        for index, family in enumerate(families)
    ]


RECORDS = {"one token": _records(20), "threshold 0.9": _records(10, (1,)), "demask": _records(2)}


def test_the_table_fits_a_terminal_and_has_parity_apart():
    lines = table(RECORDS)
    assert max(map(len, lines)) <= 100
    rows = {line.split("  ")[0]: line.split() for line in lines[2:6]}
    assert list(rows) == ["pairs", "shuffle", "all of these", "parity (*)"]
    assert rows["all of these"][-9:] == ["100.0%", "20.50", "0.39", "75.0%", "10.50", "0.76", "100.0%", "2.50", "3.20"]


def test_every_ratio_has_its_interval(monkeypatch):
    # A plain installation has no scipy.
    monkeypatch.setitem(sys.modules, "scipy", None)
    head, *lines = comparison(RECORDS)
    assert head.startswith('"demask" against the others, 4 prompts')
    assert lines[0].startswith('  "one token" needs 8.20 times its forward passes (')
    assert lines[2].startswith('  "threshold 0.9" needs 4.20 times its forward passes (')
    assert "100.0% against 75.0%, a difference of +25.0 points (-36.2 to +69.9)" in lines[3]
    assert max(map(len, lines)) <= 100


def test_the_demonstration_imports_nothing_of_an_extra():
    blocked = "sys.modules.update(dict.fromkeys(['accelerate', 'matplotlib', 'scipy']))"
    code = f"import sys; import demask_hf; {blocked}; import demask_hf.cli.demo"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""The moving picture: one frame for each forward pass, and a pause at the end."""

import pytest


pytest.importorskip("matplotlib")

from PIL import Image

from demask_hf.evaluation.animation import AnimatedRow, decoding_animation, decoding_figure
from demask_hf.evaluation.decoding import Decoding


def _row(title, steps, passes):
    decoding = Decoding("copy: abc -> ", "abc", (3, 4, 5), steps, passes, 0, 0.1)
    return AnimatedRow(title, "demask", decoding, ["a", "b", "end"])


ROWS = [_row("slow", (2, 0, 1), 3), _row("fast", (0, -1, 0), 1)]


def test_every_pass_is_a_frame(tmp_path):
    decoding_animation(ROWS, tmp_path / "x.gif", "A note.")
    with Image.open(tmp_path / "x.gif") as picture:
        # The masked answer, three passes, and the finished answers.
        assert picture.n_frames == 5
        assert picture.size[0] == 800
        durations, frames = [], []
        for number in range(picture.n_frames):
            picture.seek(number)
            durations.append(picture.info["duration"])
            frames.append(picture.convert("RGB").tobytes())
    assert durations[-1] > 4 * durations[0]
    assert len(set(frames)) == 5


def test_the_last_frame_is_a_figure(tmp_path):
    decoding_figure(ROWS, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size[0] == 1600


def test_dollar_signs_are_no_formulas(tmp_path):
    decoding = Decoding("a $$ b -> ", "$$", (3,), (0,), 1, 0, 0.1)
    rows = [AnimatedRow("$$", "demask", decoding, ["$$"])]
    decoding_figure(rows, tmp_path / "x.png", "$$")
    decoding_animation(rows, tmp_path / "x.gif", "$$")
    assert (tmp_path / "x.gif").exists()

"""The page in a headless browser: play, scrub, point, compare, export; no error, and no request to any network."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from demask_hf.watching import write_page


SCRIPT = [{5: 0.7}, {6: 0.9}, {7: 0.8}, {8: 0.6}]
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\u2028"
TEXTS = {5: "five", 6: " six", 7: "\n", 8: HOSTILE}
COUNTERS = "[...document.querySelectorAll('.counter')].map((each) => each.textContent)"
# The token at position 4 of the first strategy, the first one that is masked.
FIRST = "#panels .cell"


@pytest.fixture
def shown(browser, scripted, scripted_head, tmp_path):
    """Return a function that opens a page with two strategies, of 2 and of 4 passes, in the browser."""
    table = torch.zeros(8, 8)
    table[5, 4], table[6, 4] = 0.41, 0.06
    model = scripted(SCRIPT, prompt_length=4, head=scripted_head(table))
    speller = SimpleNamespace(decode=lambda tokens, **kwargs: "".join(TEXTS.get(token, "w") for token in tokens))
    settings = {"max_new_tokens": 4, "trace": True, "tokenizer": speller, "return_dict_in_generate": True}
    prompt = torch.full((1, 4), 9)
    traces = [model.generate(prompt, strategy=name, **settings).trace for name in ("demask", "sequential")]
    traces[1] = dataclasses.replace(traces[1], title=HOSTILE)
    write_page([trace.to_dict() for trace in traces], tmp_path / "page.html")

    def show(**screen):
        browser.open((tmp_path / "page.html").as_uri(), **screen)
        return browser

    yield show
    assert browser.errors == []
    assert [url.split(":")[0] for url in browser.requests if not url.startswith("blob:")] == ["file"]


def test_keys_scrub_through_the_passes_of_both(shown):
    page = shown()
    assert page.run(COUNTERS) == ["pass 0 of 2, 0 of 4 tokens", "pass 0 of 4, 0 of 4 tokens"]
    page.press("ArrowRight")
    assert page.run(COUNTERS) == ["pass 1 of 2, 3 of 4 tokens", "pass 1 of 4, 1 of 4 tokens"]
    assert page.run("document.querySelectorAll('#panels .new').length") == 4
    assert page.run("document.querySelectorAll('#panels .draft').length") == 4
    page.press("ArrowRight")
    # What was new has settled.
    assert page.run("document.querySelectorAll('#panels .settled').length") == 4
    page.press("ArrowLeft")
    assert page.run("document.querySelector('#scrubber').getAttribute('aria-valuetext')") == "pass 1 of 4"
    page.press("End")
    assert page.run(COUNTERS) == ["finished after 2 passes, 4 of 4 tokens", "finished after 4 passes, 4 of 4 tokens"]
    assert page.run("document.querySelector('.answer-text').textContent") == f"five six\n{HOSTILE}"
    page.press("Home")
    assert page.run("document.querySelector('#scrubber').value") == "0"


def test_the_scrubber_and_the_buttons_go_to_a_pass(shown):
    page = shown()
    page.run("{const s = document.querySelector('#scrubber'); s.value = 3; s.dispatchEvent(new Event('input'));}")
    assert page.run(COUNTERS)[1] == "pass 3 of 4, 3 of 4 tokens"
    for button, expected in (("#back", "pass 2"), ("#next", "pass 3"), ("#first", "pass 0"), ("#last", "finished")):
        page.point(button, click=True)
        assert page.run(COUNTERS)[1].startswith(expected)


def test_space_plays_to_the_end_and_pauses(shown):
    page = shown()
    page.press(" ", text=" ")
    assert page.run("document.querySelector('#play').textContent") == "Pause"
    assert page.run("document.querySelector('#status').getAttribute('aria-live')") == "off"
    page.wait("document.querySelector('#scrubber').value === '1'")
    page.press(" ", text=" ")
    assert page.run("document.querySelector('#play').textContent") == "Play"
    page.point("#play", click=True)
    page.wait("document.querySelector('#scrubber').value === document.querySelector('#scrubber').max")
    assert page.run("document.querySelector('#play').textContent") == "Play"
    assert page.run("document.querySelector('#status').getAttribute('aria-live')") == "polite"


def test_pointing_at_a_token_says_why_it_waits_and_draws_its_arcs(shown):
    page = shown()
    page.press("ArrowRight")
    page.point(FIRST)
    details = page.run("document.querySelector('#details').innerText")
    assert "waits for position 5: D = 0.41, sum 0.47 above the bound 0.06" in details
    assert '"five" 0.7' in details
    assert "5: 0.41   6: 0.06" in details
    assert page.run("document.querySelectorAll('.tokens path').length") == 2
    page.press("Escape")
    assert "Point at a token" in page.run("document.querySelector('#details').innerText")


def test_tokens_are_reached_and_named_with_keys_alone(shown):
    page = shown()
    page.press("ArrowRight")
    page.run(f"document.querySelector('{FIRST}').focus()")
    name = "document.activeElement.getAttribute('aria-label')"
    assert page.run(name).startswith('Position 4: masked, with a draft, "five", certainty 0.7, waits for position 5')
    page.press("ArrowDown")
    assert page.run(name) == 'Position 5: new, "\u00b7six", pass 1, certainty 0.9'
    page.press("ArrowUp")
    page.press("ArrowUp")
    assert page.run(name).startswith("Position 4")
    assert page.run("document.querySelectorAll('.tokens [tabindex=\"0\"]').length") == 2


def test_dependencies_are_arcs_or_a_map_or_hidden(shown):
    page = shown()
    page.press("ArrowRight")
    choose = "{{const s = document.querySelector('#links'); s.value = '{}'; s.dispatchEvent(new Event('change'));}}"
    assert page.run("document.querySelectorAll('.tokens path').length") == 2
    page.run(choose.format("map"))
    assert page.run("document.querySelectorAll('.tokens path').length") == 0
    assert page.run("document.querySelectorAll('.map rect').length") == 3
    label = page.run("document.querySelector('.map').getAttribute('aria-label')")
    assert label.endswith("the largest is 0.41, of position 4 on position 5")
    page.run(choose.format("none"))
    assert page.run("document.querySelectorAll('.map rect').length") == 0


def test_color_by_certainty_differs_from_color_by_pass(shown):
    page = shown()
    page.press("End")
    background = f"getComputedStyle(document.querySelector('{FIRST}')).backgroundColor"
    by_pass = page.run(background)
    page.run(
        "{const s = document.querySelector('#color'); s.value = 'certainty'; s.dispatchEvent(new Event('change'));}"
    )
    assert page.run(background) != by_pass


def test_hostile_texts_are_shown_as_text(shown):
    page = shown()
    page.press("End")
    assert page.run("window.hacked") is None
    assert page.run("document.querySelectorAll('h2')[1].textContent") == HOSTILE
    assert page.run("document.querySelectorAll('img').length") == 0
    # A text that should become a part of the page all the same cannot run: only the page's own script may.
    page.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.hacked = 1'}))")
    assert page.run("window.hacked") is None
    assert len(page.errors) == 1
    page.errors.clear()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_the_screen_in_both_schemes(shown, width, scheme):
    page = shown(width=width, scheme=scheme)
    page.press("ArrowRight")
    assert page.run("document.documentElement.scrollWidth") <= width
    tops = page.run("[...document.querySelectorAll('.panel')].map((panel) => panel.getBoundingClientRect().top)")
    assert (tops[0] == tops[1]) == (width == 1280)
    color = page.run("getComputedStyle(document.body).backgroundColor")
    assert color == {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 24, 27)"}[scheme]
    assert page.picture().startswith(b"\x89PNG")


def _saved(page, button, file):
    """Click a button and return the file that it saves."""
    page.download_to(file.parent)
    page.point(button, click=True)
    for _ in range(400):
        if file.exists() and file.stat().st_size:
            return file.read_bytes()
        page.run("new Promise((done) => setTimeout(done, 50))")
    raise AssertionError(f"{file.name} was not saved")


def test_the_picture_is_a_file(shown, tmp_path):
    page = shown()
    page.press("ArrowRight")
    plain = _saved(page, "#png", tmp_path / "decoding.png")
    assert plain.startswith(b"\x89PNG")
    assert 5_000 < len(plain) < 200_000
    (tmp_path / "decoding.png").unlink()
    page.run("{const s = document.querySelector('#links'); s.value = 'map'; s.dispatchEvent(new Event('change'));}")
    assert _saved(page, "#png", tmp_path / "decoding.png") != plain


def test_the_animation_has_a_frame_for_each_pass_and_is_small(shown, tmp_path):
    image = pytest.importorskip("PIL.Image")
    page = shown(width=900)
    page.press("ArrowRight")
    saved = _saved(page, "#gif", tmp_path / "decoding.gif")
    assert len(saved) < 100_000
    page.wait("document.querySelector('#gif').textContent === 'Save as GIF'")
    assert page.run(COUNTERS)[0].startswith("pass 1"), "the page does not show what it showed before"
    with image.open(tmp_path / "decoding.gif") as found:
        # The frame before the first pass, four passes of the slower strategy, and the last frame.
        assert found.n_frames == 6
        assert found.info["loop"] == 0
        frames = []
        for number in range(found.n_frames):
            found.seek(number)
            frames.append(found.convert("RGB").copy())
    colors = {"white": (255, 255, 255), "new": (179, 71, 0)}
    shares = [dict((color, count) for count, color in frame.getcolors(1 << 24)) for frame in frames]
    assert all(share[colors["white"]] > 0.5 * found.width * found.height for share in shares)
    near = [sum(count for color, count in share.items() if _distance(color, colors["new"]) < 30) for share in shares]
    # New tokens have borders, which are drawn and go away again.
    assert near[0] == 0
    assert near[1] > 500
    assert near[1] > near[4] > 0


def _distance(color, other):
    return max(abs(mine - its) for mine, its in zip(color, other, strict=True))

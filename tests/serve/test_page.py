"""The page of the server, in a headless browser: it decodes live, with and without a key."""

import threading
import time

import pytest

from demask_hf.serve import Scheduler, ServedModel


uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("prometheus_client", reason="needs the extra serve")

from demask_hf.serve.app import Server, create_app  # noqa: E402


HOSTILE = "<img src=x onerror='window.hacked = 1'>"
COUNTERS = "[...document.querySelectorAll('.counter')].map((each) => each.textContent)"
ARE_FINISHED = f"{COUNTERS}.length === 2 && {COUNTERS}.every((each) => each.startsWith('finished'))"


@pytest.fixture
def served(make_dream, make_head, spelling):
    model = make_dream(vocab_size=259)
    model.set_demask_head(make_head(model))
    settings = {"max_new_tokens": 8, "stop_at_eos": False}
    return ServedModel(model, spelling, "bytes", settings=settings, max_length=2000)


@pytest.fixture
def start(served):
    """Return a function that starts a server and returns its address and its scheduler."""
    stops = []

    def begin(**options):
        scheduler = Scheduler()
        app = create_app(Server(served, scheduler, **options))
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        thread = threading.Thread(target=server.run)
        thread.start()
        stops.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}/", scheduler

    yield begin
    for server, thread in stops:
        server.should_exit = True
        thread.join()


def _fill(page, **values):
    for name, value in values.items():
        page.run(
            f"{{const each = document.querySelector('#{name}'); each.value = {value!r}; "
            "each.dispatchEvent(new Event('change'));}"
        )


@pytest.mark.parametrize("width", [1280, 400])
def test_two_strategies_are_decoded_live(browser, start, width):
    address, _ = start()
    browser.open(address, width=width, scheme="dark" if width == 400 else "light")
    browser.wait("document.querySelector('#strategy').value === 'demask'")
    assert browser.run("document.querySelector('#tokens').value") == "8"
    assert (
        browser.run("[...document.querySelector('#strategy').options].some((each) => each.value === 'table')") is False
    )
    _fill(browser, text=HOSTILE, compare="sequential")
    browser.point("#decode", click=True)
    browser.wait(ARE_FINISHED)
    first, second = browser.run(COUNTERS)
    assert second == "finished after 8 passes, 8 of 8 tokens"
    assert first.endswith("8 of 8 tokens")
    assert browser.run("document.querySelector('#prompt').textContent") == HOSTILE
    assert browser.run("window.hacked") is None
    browser.run("document.activeElement.blur()")
    browser.press("Home")
    assert browser.run(COUNTERS)[1] == "pass 0 of 8, 0 of 8 tokens"
    browser.press("ArrowRight")
    browser.point("#panels .cell")
    assert "Likely" in browser.run("document.querySelector('#details').innerText")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.picture().startswith(b"\x89PNG")
    assert browser.errors == []
    assert {url for url in browser.requests if not url.startswith(address)} == set()


def test_a_key_is_asked_for_and_errors_are_told(browser, start):
    address, _ = start(api_key="s3cret")
    browser.open(address)
    browser.wait("document.querySelector('#error').textContent.includes('API key')")
    assert browser.run("document.querySelector('#with-key').hidden") is False
    _fill(browser, key="s3cret")
    browser.wait("document.querySelector('#strategy').value === 'demask'")
    assert browser.run("document.querySelector('#error').textContent") == ""
    _fill(browser, text="Hi", tokens="3000")
    browser.point("#decode", click=True)
    browser.wait("document.querySelector('#error').textContent.startsWith('`max_tokens` must leave')")
    # The browser reports what was refused.
    assert {error["source"] for error in browser.errors} == {"network"}
    browser.errors.clear()


def test_an_answer_that_is_stopped_leaves_the_server(browser, start):
    address, scheduler = start()
    browser.open(address)
    browser.wait("document.querySelector('#strategy').value === 'demask'")
    _fill(browser, text="Hi", strategy="sequential", tokens="400")
    browser.point("#decode", click=True)
    browser.wait(f"({COUNTERS}[0] ?? '').startsWith('pass ')")
    browser.point("#stop", click=True)
    browser.wait("document.querySelector('#stop').disabled")
    for _ in range(200):
        if not scheduler.num_running:
            break
        time.sleep(0.05)
    assert scheduler.num_running == 0
    assert scheduler.counts.num_row_passes < 400
    assert browser.run("document.querySelector('#error').textContent") == ""
    assert browser.errors == []

"""Draw the picture of the README: one prompt of the shipped checkpoint, decoded one forward pass a frame.

    python benchmarks/draw_decoding.py --out docs/images

Writes decoding.gif as the viewer saves it; needs a Chromium. At temperature 0 nothing is random, but fonts depend on
the machine.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from browser import NAMES, Browser, find_browser

import demask_hf
from demask_hf.generation.encoding import encode_batch
from demask_hf.watching import Trace, write_page


PROMPT = "shuffle: JFP BDCP FCG DL MRH TFC -> "
ROWS = {
    "one token per forward pass": {"name": "sequential"},
    "confidence threshold 0.9": {"name": "threshold", "confidence_threshold": 0.9},
    "demask: only tokens that do not depend on each other": {"name": "demask"},
}
# Pixels; the panels stand one below the other.
WIDTH = 720
MAX_SECONDS = 600


def traces_of(prompt: str) -> list[Trace]:
    """Decode a prompt in all ways and print what each of them cost."""
    model, tokenizer = demask_hf.load_model(demask_hf.TINY_DREAM, head=demask_hf.TINY_DEMASK, device="cpu")
    ids, attention_mask = encode_batch(tokenizer, [prompt])
    settings = {"trace": True, "tokenizer": tokenizer, "return_dict_in_generate": True}
    traces = []
    for title, strategy in ROWS.items():
        trace = model.generate(ids, attention_mask, strategy=strategy, **settings).trace
        traces.append(dataclasses.replace(trace, title=title))
        answer = trace.to_dict()["final"]["text"]
        print(f"{title}: {answer}, {trace.decoded.num_forward_passes} forward passes")
    return traces


def save(page: Browser, file: Path) -> None:
    """Let the page save its animation, and wait for the file."""
    file.unlink(missing_ok=True)
    page.download_to(file.parent.resolve())
    page.point("#gif", click=True)
    end = time.monotonic() + MAX_SECONDS
    while not (file.exists() and file.stat().st_size):
        if time.monotonic() > end:
            raise RuntimeError(f"The browser did not save {file} in {MAX_SECONDS} seconds.")
        time.sleep(0.1)


def main(argv: list[str] | None = None) -> None:
    """Decode and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    arguments = parser.parse_args(argv)
    program = find_browser()
    if program is None:
        parser.error(f"needs a browser: none of {', '.join(NAMES)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        write_page([trace.to_dict() for trace in traces_of(arguments.prompt)], Path(folder) / "page.html")
        page = Browser(program, Path(folder) / "profile")
        try:
            page.open((Path(folder) / "page.html").as_uri(), width=WIDTH)
            save(page, arguments.out / "decoding.gif")
        finally:
            page.close()


if __name__ == "__main__":
    main()

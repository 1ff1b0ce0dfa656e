"""Draw the picture of the README: one prompt of the shipped checkpoint, decoded one forward pass a frame.

    python benchmarks/draw_decoding.py --out docs/images

Writes decoding.gif, and decoding.png with its last frame. Takes a few seconds; at temperature 0 nothing is random.
"""

import argparse
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import demask_hf
from demask_hf.evaluation import decode_prompts
from demask_hf.evaluation.animation import AnimatedRow, decoding_animation, decoding_figure


PROMPT = "shuffle: JFP BDCP FCG DL MRH TFC -> "
NOTE = "Any order of the letters within each group is right. All three answers are; they differ in forward passes."
ROWS = {
    "one token per forward pass": {"name": "sequential"},
    "confidence threshold 0.9": {"name": "threshold", "confidence_threshold": 0.9},
    "demask: only tokens that do not depend on each other": {"name": "demask"},
}


def main(argv: list[str] | None = None) -> None:
    """Decode and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--note", default=NOTE)
    parser.add_argument("--out", type=Path, required=True, help="folder")
    arguments = parser.parse_args(argv)
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)
    rows = []
    for title, strategy in ROWS.items():
        (decoding,) = decode_prompts(model, tokenizer, [arguments.prompt], strategy)
        texts = ["end" if token == tokenizer.eos_token_id else tokenizer.decode([token]) for token in decoding.tokens]
        rows.append(AnimatedRow(title, strategy["name"], decoding, texts))
        print(f"{title}: {decoding.answer}, {decoding.num_forward_passes} forward passes")
    decoding_animation(rows, arguments.out / "decoding.gif", arguments.note)
    decoding_figure(rows, arguments.out / "decoding.png", arguments.note)


if __name__ == "__main__":
    main()

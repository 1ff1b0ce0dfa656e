"""Measure dependencies on a few prompts, train a head on them, and decode with it."""

import json
import tempfile
from itertools import permutations
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Collect, train, decode."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    work = Path(tempfile.mkdtemp())
    words = ["".join(letters) for letters in permutations("ABCDE")]
    asked = [f"sort: {' '.join(words[start::30])} -> " for start in range(30)]
    lines = [json.dumps({"prompt": prompt, "answer": " ".join(["ABCDE"] * 4)}) for prompt in asked]
    (work / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prompts = demask_hf.read_prompts(work / "answers.jsonl", tokenizer)
    settings = demask_hf.CollectionSettings(num_states=96, answer_length=32, estimator="argmax")
    states = demask_hf.collect(model, prompts, work / "states", settings)
    training, held_out = demask_hf.split_by_prompt(states, 0.2, seed=0)
    head = demask_hf.new_head(states.facts["backbone"], seed=0, width=32)
    fit = demask_hf.train_head(head, training, held_out, work / "checkpoints", max_steps=100, learning_rate=3e-3)
    print(f"R^2 {fit['r2']:.3f} on held-out prompts, {fit['r2_distance']:.3f} by distance alone")
    head.save_pretrained(work / "head")
    model.load_demask_head(str(work / "head"))
    inputs = tokenizer(asked[0], return_tensors="pt")
    sequences = model.generate(**inputs, strategy="demask")
    print(tokenizer.decode(sequences[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()

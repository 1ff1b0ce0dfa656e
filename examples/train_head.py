"""Measure dependencies on a few prompts, train a head on them, and decode with it."""

import json
import tempfile
from pathlib import Path
from random import Random

from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Collect states of shuffled groups of letters, train, decode with and without the head."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    work, random, records = Path(tempfile.mkdtemp()), Random(0), []
    for _ in range(64):
        groups = [random.sample("ABCDEFGHJKLMNPRT", 3) for _ in range(6)]
        answer = " ".join("".join(random.sample(group, 3)) for group in groups)
        records.append({"prompt": f"shuffle: {' '.join(map(''.join, groups))} -> ", "answer": answer})
    (work / "answers.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    prompts = demask_hf.read_prompts(work / "answers.jsonl", tokenizer)
    settings = demask_hf.CollectionSettings(num_states=192, answer_length=32, estimator="argmax")
    states = demask_hf.collect(model, prompts, work / "states", settings)
    training, held_out = demask_hf.split_by_prompt(states, 0.2, seed=0)
    head = demask_hf.new_head(states.facts["backbone"], seed=0)
    fit = demask_hf.train_head(head, training, held_out, work / "checkpoints", max_steps=200, learning_rate=3e-3)
    print(f"R^2 {fit['r2']:.3f} on held-out prompts, {fit['r2_distance']:.3f} by distance alone")
    model.set_demask_head(head)
    inputs = tokenizer("shuffle: JFP BDC FCG DLA MRH TFC -> ", return_tensors="pt")
    for strategy in ("threshold", "demask"):
        output = model.generate(**inputs, strategy=strategy, return_dict_in_generate=True)
        text = tokenizer.decode(output.sequences[0], skip_special_tokens=True)
        print(f"{strategy}: {output.num_forward_passes.item()} forward passes: {text}")


if __name__ == "__main__":
    main()

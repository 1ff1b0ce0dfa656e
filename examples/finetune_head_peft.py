"""Adapt the shipped head to new prompts with LoRA, save the adapter alone, load it again, and decode."""

import json
import tempfile
from itertools import permutations
from pathlib import Path

from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Measure, train an adapter, decode with it."""
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
    head = demask_hf.add_lora(demask_hf.DemaskHead.from_pretrained(demask_hf.TINY_DEMASK), rank=4)
    demask_hf.train_head(head, training, held_out, work / "checkpoints", max_steps=20, learning_rate=1e-3)
    head.save_pretrained(work / "adapter")
    head = PeftModel.from_pretrained(demask_hf.DemaskHead.from_pretrained(demask_hf.TINY_DEMASK), work / "adapter")
    sizes = (work / "adapter" / "adapter_model.safetensors", Path(demask_hf.TINY_DEMASK, "model.safetensors"))
    print("adapter {} bytes, head {} bytes".format(*(file.stat().st_size for file in sizes)))
    model.set_demask_head(head)
    sequences = model.generate(**tokenizer(asked[0], return_tensors="pt"), strategy="demask")
    print(tokenizer.decode(sequences[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()

"""Adapt the shipped head to new prompts with LoRA, save the adapter alone, load it again, and decode."""

import json
import tempfile
from pathlib import Path
from random import Random

from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Measure, train an adapter, decode with it."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    work, random, records = Path(tempfile.mkdtemp()), Random(0), []
    for _ in range(32):
        groups = [random.sample("ABCDEFGHJKLMNPRT", 3) for _ in range(6)]
        answer = " ".join("".join(random.sample(group, 3)) for group in groups)
        records.append({"prompt": f"shuffle: {' '.join(map(''.join, groups))} -> ", "answer": answer})
    (work / "answers.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    prompts = demask_hf.read_prompts(work / "answers.jsonl", tokenizer)
    settings = demask_hf.CollectionSettings(num_states=96, answer_length=32, estimator="argmax")
    states = demask_hf.collect(model, prompts, work / "states", settings)
    training, held_out = demask_hf.split_by_prompt(states, 0.2, seed=0)
    head = demask_hf.add_lora(demask_hf.DemaskHead.from_pretrained(demask_hf.TINY_DEMASK), rank=4)
    fit = demask_hf.train_head(head, training, held_out, work / "checkpoints", max_steps=20, learning_rate=1e-3)
    head.save_pretrained(work / "adapter")
    head = PeftModel.from_pretrained(demask_hf.DemaskHead.from_pretrained(demask_hf.TINY_DEMASK), work / "adapter")
    sizes = (work / "adapter" / "adapter_model.safetensors", Path(demask_hf.TINY_DEMASK, "model.safetensors"))
    print("adapter {} bytes, head {} bytes, R^2 {r2:.3f}".format(*(file.stat().st_size for file in sizes), **fit))
    model.set_demask_head(head)
    output = model.generate(**tokenizer(records[0]["prompt"], return_tensors="pt"), return_dict_in_generate=True)
    print(output.num_forward_passes.item(), tokenizer.decode(output.sequences[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()

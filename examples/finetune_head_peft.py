"""Adapt the shipped head to new prompts with LoRA, save the adapter alone, load it again, and decode."""

import tempfile
from itertools import permutations
from pathlib import Path

from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Measure on the fly, train an adapter, decode with it."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    work = Path(tempfile.mkdtemp())
    lines = [f'{{"prompt": "sort: {"".join(p)} -> ", "answer": "ABCD"}}' for p in permutations("ABCD")]
    (work / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    prompts = demask_hf.read_prompts(work / "answers.jsonl", tokenizer)
    settings = demask_hf.CollectionSettings(num_states=160, answer_length=16, estimator="argmax")
    states = demask_hf.MeasuredStates(model, prompts[:20], settings)
    held_out = list(demask_hf.MeasuredStates(model, prompts[20:], settings).shard(0))[0]
    head = demask_hf.add_lora(demask_hf.DemaskHead.from_pretrained(demask_hf.TINY_DEMASK), rank=4)
    demask_hf.train_head(head, states, held_out, work / "checkpoints", max_steps=20, learning_rate=1e-3)
    head.save_pretrained(work / "adapter")
    head = PeftModel.from_pretrained(demask_hf.DemaskHead.from_pretrained(demask_hf.TINY_DEMASK), work / "adapter")
    sizes = (work / "adapter" / "adapter_model.safetensors", Path(demask_hf.TINY_DEMASK, "model.safetensors"))
    print("adapter {} bytes, head {} bytes".format(*(file.stat().st_size for file in sizes)))
    model.set_demask_head(head)
    sequences = model.generate(
        **tokenizer("sort: DACB -> ", return_tensors="pt"), strategy="demask", max_new_tokens=16
    )
    print(tokenizer.decode(sequences[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()

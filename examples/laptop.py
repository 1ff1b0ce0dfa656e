"""Decode a prompt with a diffusion model of 0.6 billion parameters on a CPU, and print what it cost."""

import argparse
import time

from transformers import AutoConfig, AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Decode with one token per pass, then with a threshold; `--random` needs neither network nor weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1")
    parser.add_argument("--prompt", default="Write a haiku about rain.")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--random", action="store_true", help="a tiny model of the same class with random weights")
    arguments = parser.parse_args()
    if arguments.random:
        tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"head_dim": 16, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
        config = AutoConfig.for_model("a2d-qwen3", **sizes, mask_token_id=tokenizer.mask_token_id)
        model = AutoModel.from_config(config).eval()
    else:
        model, tokenizer = demask_hf.load_model(arguments.name, device="cpu", dtype="float32")
    text = arguments.prompt
    if tokenizer.chat_template:
        options = {"add_generation_prompt": True, "enable_thinking": False, "tokenize": False}
        text = tokenizer.apply_chat_template([{"role": "user", "content": text}], **options)
    inputs = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")
    for strategy in ("sequential", "threshold"):
        start, length = time.perf_counter(), arguments.max_new_tokens
        output = model.generate(**inputs, strategy=strategy, max_new_tokens=length, return_dict_in_generate=True)
        print(tokenizer.decode(output.sequences[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        print(f"{strategy}: {output.num_forward_passes.item()} passes, {time.perf_counter() - start:.1f} seconds")


if __name__ == "__main__":
    main()

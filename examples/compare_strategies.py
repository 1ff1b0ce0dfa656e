"""Decode one prompt with every strategy: the same loop and model, another rule for what to unmask."""

from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Print for each strategy the answer, its forward passes, and its tokens per forward pass."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)

    prompt = "shuffle: JFP BDCP FCG DL MRH TFC -> "
    inputs = tokenizer(prompt, return_tensors="pt")
    prompt_length = inputs["input_ids"].shape[1]
    print(f"{'strategy':15} {'passes':>6} {'tokens/pass':>11}  {prompt}")
    for name in demask_hf.strategy_names():
        output = model.generate(**inputs, strategy=name, return_dict_in_generate=True)
        passes, rate = output.num_forward_passes.item(), output.tokens_per_forward.item()
        answer = tokenizer.decode(output.sequences[0, prompt_length:], skip_special_tokens=True)
        print(f"{name:15} {passes:6d} {rate:11.2f}  {answer}")


if __name__ == "__main__":
    main()

"""Decode one prompt with the shipped checkpoint and its dependency head, and say what it cost."""

from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Decode a prompt at temperature 0, then three answers of the same prompt at temperature 1."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)

    prompt = "pairs: =07, =12, =05, =18, =03, =11 -> "
    inputs = tokenizer(prompt, return_tensors="pt")
    output = model.generate(**inputs, strategy="demask", dependency_bound=0.1, return_dict_in_generate=True)
    print(tokenizer.decode(output.sequences[0], skip_special_tokens=True))
    print("forward passes:", output.num_forward_passes.item())
    print("tokens per forward pass:", round(output.tokens_per_forward.item(), 2))

    batch = tokenizer([prompt] * 3, return_tensors="pt")
    sequences = model.generate(**batch, strategy="demask", temperature=1.0, seed=[1, 2, 3])
    print(*tokenizer.batch_decode(sequences, skip_special_tokens=True), sep="\n")


if __name__ == "__main__":
    main()

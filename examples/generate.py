"""Decode one prompt with the shipped checkpoint and its dependency head, and print what it cost."""

from transformers import AutoModel, AutoTokenizer

import demask_hf


def main() -> None:
    """Decode a prompt with one token per pass and with demask, then draw three answers at temperature 1."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    model.load_demask_head(demask_hf.TINY_DEMASK)

    prompt = "shuffle: JFP BDCP FCG DL MRH TFC -> "
    inputs = tokenizer(prompt, return_tensors="pt")
    for strategy in ("sequential", "demask"):
        output = model.generate(**inputs, strategy=strategy, return_dict_in_generate=True)
        print(tokenizer.decode(output.sequences[0], skip_special_tokens=True))
        print(f"{strategy}: {output.num_forward_passes.item()} forward passes")

    batch = tokenizer([prompt] * 3, return_tensors="pt")
    sequences = model.generate(**batch, strategy="demask", temperature=1.0, seed=[1, 2, 3])
    print(*tokenizer.batch_decode(sequences, skip_special_tokens=True), sep="\n")


if __name__ == "__main__":
    main()

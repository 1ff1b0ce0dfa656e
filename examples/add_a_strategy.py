"""Add an unmasking strategy: one dataclass whose fields are its limits and whose `select` picks positions."""

from dataclasses import dataclass

import torch
from transformers import AutoModel, AutoTokenizer

import demask_hf


@demask_hf.register_strategy("top_k")
@dataclass
class TopKStrategy(demask_hf.UnmaskingStrategy):
    """Unmask in every step the `num_positions` positions, at least 1, whose token is most probable."""

    num_positions: int = 2

    # What `select` reads of a step; without it, `step.probabilities` would hold whole distributions.
    needs = frozenset({"token_probability"})

    def __post_init__(self):
        if self.num_positions < 1:
            raise ValueError(f"`num_positions` must be at least 1, got {self.num_positions}.")

    def select(self, step: demask_hf.DenoisingStep) -> torch.BoolTensor:
        return step.best(step.score("token_probability"), self.num_positions)


def main() -> None:
    """Decode with the new strategy. Letters that depend on each other clash where it unmasks several at once."""
    tokenizer = AutoTokenizer.from_pretrained(demask_hf.TINY_DREAM)
    model = AutoModel.from_pretrained(demask_hf.TINY_DREAM)
    inputs = tokenizer("shuffle: JFP BDCP FCG DL MRH TFC -> ", return_tensors="pt")
    for number in (1, 2, 4):
        sequences = model.generate(**inputs, strategy="top_k", num_positions=number)
        print(number, tokenizer.decode(sequences[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()

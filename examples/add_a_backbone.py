"""Add a backbone: declare what is special about a kind of model, attach `generate` to one, and decode."""

from types import SimpleNamespace

import torch
from torch import nn
from transformers.utils import ModelOutput

import demask_hf


class Cloze(nn.Module):
    """A masked language model of somebody's own: token 0 is the mask, and every position sees every other."""

    def __init__(self, vocab_size: int = 12, width: int = 16):
        super().__init__()
        self.config = SimpleNamespace(model_type="cloze", vocab_size=vocab_size, hidden_size=width)
        self.embedding = nn.Embedding(vocab_size, width)
        self.encoder = nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=32, batch_first=True)
        self.output = nn.Linear(width, vocab_size)

    def forward(self, input_ids: torch.LongTensor) -> ModelOutput:
        return ModelOutput(logits=self.output(self.encoder(self.embedding(input_ids))))


def main() -> None:
    """Decode with a random model; its output layer only ever sees the positions that are asked for."""
    torch.manual_seed(0)
    quirks = demask_hf.BackboneQuirks(logits_shift=0, states="encoder", mask_token_id=0)
    demask_hf.declare_backbone("cloze", quirks)
    model = demask_hf.attach(Cloze().eval())
    output = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, return_dict_in_generate=True)
    print("tokens:", output.sequences[0].tolist())
    print("forward passes:", output.num_forward_passes.item())


if __name__ == "__main__":
    main()

"""A backbone spread over devices by accelerate: the head follows the hidden states, and nothing else changes."""

import pytest
import torch
from accelerate import dispatch_model

import demask_hf


DEVICE_MAPS = {
    "cpu and disk": {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "disk", "": "cpu"},
    "disk before cpu": {"model.embed_tokens": "disk", "model.layers.0": "disk", "": "cpu"},
    "lm_head on disk": {"model": "cpu", "lm_head": "disk"},
}
MODULES = ("model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm", "model.rotary_emb", "lm_head")


def _complete(device_map):
    """Return the device of every module: that of its longest prefix in the map."""
    prefixes = sorted(device_map, key=len, reverse=True)
    return {name: device_map[next(prefix for prefix in prefixes if name.startswith(prefix))] for name in MODULES}


@pytest.fixture(scope="module")
def folder(dream, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    dream.save_pretrained(folder)
    return folder


def _decode(model):
    ids, attention_mask = torch.tensor([[0, 3, 4], [5, 6, 7]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    output = model.generate(ids, attention_mask, max_new_tokens=8, strategy="demask", return_dict_in_generate=True)
    return output.sequences.tolist(), output.unmask_step.tolist()


@pytest.mark.parametrize("name", DEVICE_MAPS)
def test_an_offloaded_backbone_decodes_the_same(dream_with_head, folder, tmp_path, name):
    model = demask_hf.DreamModel.from_pretrained(
        folder, device_map=_complete(DEVICE_MAPS[name]), offload_folder=tmp_path
    )
    assert "disk" in model.hf_device_map.values()
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    model.set_demask_head(dream_with_head.demask_head)
    assert _decode(model) == _decode(dream_with_head)


def test_hooks_on_every_block_decode_the_same(dream_with_head, make_dream):
    model = make_dream()
    dispatch_model(model, dict.fromkeys(MODULES, "cpu"), main_device="cpu", force_hooks=True)
    assert hasattr(model.model.layers[1], "_hf_hook")
    model.set_demask_head(dream_with_head.demask_head)
    assert _decode(model) == _decode(dream_with_head)


def test_the_head_follows_the_hidden_states(dream_with_head, make_head, folder, tmp_path):
    moves = []

    class Recorded(demask_hf.DemaskHead):
        def to(self, *arguments, **options):
            moves.append(arguments[0])
            return super().to(*arguments, **options)

        def parameters(self, recurse=True):
            # As if it were somewhere else until it is moved.
            if not moves:
                yield torch.empty(0, device="meta")
            yield from super().parameters(recurse)

    device_map = _complete(DEVICE_MAPS["disk before cpu"])
    model = demask_hf.DreamModel.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path)
    head = make_head(model)
    head.__class__ = Recorded
    model.set_demask_head(head)
    _decode(model)
    # Moved once: looking through all its modules in every step would take a tenth of the head's time.
    assert moves == [torch.device("cpu")]

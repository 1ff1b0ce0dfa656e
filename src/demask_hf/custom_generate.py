"""Decode with a dependency head; a head's repository holds this file as `custom_generate/generate.py`."""

from typing import Any


# `demask-hf push` writes the repository here; in a folder that was only exported it stays `None`.
HEAD_REPOSITORY = None


def generate(
    model: Any,
    inputs: Any = None,
    head: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    **arguments: Any,
) -> Any:
    """Decode with `strategy="demask"`; called by `model.generate(..., custom_generate=..., trust_remote_code=True)`.

    Args:
        model (`torch.nn.Module`):
            A masked language model; `attach` replaces its `generate` if it is not that of demask_hf.
        inputs (`torch.LongTensor` of shape `(batch, prompt_length)`, *optional*):
            The prompts, if they are not passed as `input_ids`.
        head (`str`, *optional*):
            Folder or repository of the head; by default the repository of this file, or else the head that is already
            loaded.
        revision (`str`, *optional*):
            Revision of the head, as for this file.
        token (`str` or `bool`, *optional*):
            Token for a private repository, as for this file.
        arguments:
            Further arguments of `generate` in demask_hf.

    Raises:
        ValueError: if no head is known.
    """
    import demask_hf

    arguments = {name: value for name, value in arguments.items() if value is not None}
    if inputs is not None:
        arguments["input_ids"] = inputs
    if not isinstance(model, demask_hf.DemaskGenerationMixin):
        demask_hf.attach(model)
    source, loaded = head or HEAD_REPOSITORY, model.demask_head
    if source is None and loaded is None:
        raise ValueError(
            "`head` must name the folder or repository of the dependency head, got None and a model without a head."
        )
    if source is not None and getattr(loaded, "_demask_source", None) != (source, revision):
        access = {"revision": revision, "token": token}
        loaded = model.load_demask_head(source, **{name: value for name, value in access.items() if value is not None})
        # Stored, so that the next call does not load it again.
        loaded._demask_source = (source, revision)
    return model.generate(**{"strategy": "demask", **arguments})

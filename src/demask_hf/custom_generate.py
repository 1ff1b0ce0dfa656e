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
    if source is not None:
        access = {"revision": revision, "token": token}
        loaded = _loaded(model, source, {name: value for name, value in access.items() if value is not None})
    if loaded is None:
        raise ValueError(
            "`head` must name the folder or repository of the dependency head, got None and a model without a head."
        )
    with model.with_demask_head(loaded):
        return model.generate(**{"strategy": "demask", **arguments})


def _loaded(model: Any, source: str, access: dict[str, Any]) -> Any:
    """Return the head of a folder or repository; a model without a head keeps the first one as its own.

    Heads are kept with the model, so that the next call does not load them again. One that the model has is not
    replaced: other calls may be using it.
    """
    from demask_hf.backbones import check_head
    from demask_hf.head import load_head

    heads = vars(model).setdefault("_demask_heads", {})
    key = source, access.get("revision")
    if key not in heads:
        head = load_head(source, **access).eval()
        check_head(model, head)
        heads[key] = head
        if model.demask_head is None:
            model.set_demask_head(head)
    return heads[key]

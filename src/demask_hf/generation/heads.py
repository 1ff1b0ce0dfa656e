"""How a model gets its dependency head."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from ..backbones.backbone import check_head
from ..head.loading import load_head
from ..head.modeling_demask import DemaskHead


# A model and the head that it has in the running call only.
_HEAD_OF_CALL: ContextVar[tuple[Any, DemaskHead] | None] = ContextVar("head of a call", default=None)


class HeadMethods:
    """Keeps the dependency head of a model beside its weights."""

    @property
    def demask_head(self) -> DemaskHead | None:
        """The dependency head of the model; not part of its `state_dict`."""
        model, head = _HEAD_OF_CALL.get() or (None, None)
        return head if model is self else self.__dict__.get("_demask_head")

    @contextmanager
    def with_demask_head(self, head: DemaskHead) -> Iterator[None]:
        """Let the model have this head in the calls of this context; other threads see the one that it has.

        Args:
            head ([`DemaskHead`]):
                A head for this model, in eval mode.
        """
        before = _HEAD_OF_CALL.set((self, head))
        try:
            yield
        finally:
            _HEAD_OF_CALL.reset(before)

    def set_demask_head(self, head: DemaskHead | None) -> None:
        """Attach a dependency head to the model; `None` removes it.

        Raises:
            TypeError: if `head` has no [`DemaskConfig`].
            ValueError: if the head was made for another backbone.
        """
        if head is not None:
            if getattr(getattr(head, "config", None), "model_type", None) != "demask":
                raise TypeError(f"`head` must be a DemaskHead, got {type(head).__name__}.")
            check_head(self, head)  # type: ignore[arg-type]
            head.eval()
        # Bypasses nn.Module, which would register the head as a submodule.
        self.__dict__["_demask_head"] = head

    def load_demask_head(self, name_or_path: str, **kwargs: Any) -> DemaskHead:
        """Load a dependency head from a folder or the Hub and attach it to the model.

        Args:
            name_or_path (`str`):
                Folder or Hub repository.
            kwargs:
                Arguments of [`DemaskHead.from_pretrained`], such as `revision`, `token` or `dtype`.

        Returns:
            [`DemaskHead`]: the head; it moves to the device of the hidden states when it is used.

        Raises:
            OSError: if the repository, the revision or a file does not exist.
            ValueError: if a file is damaged or of another format than safetensors, the weights are incomplete or not
                finite, or the head was made for another backbone.
        """
        head = load_head(name_or_path, **kwargs)
        self.set_demask_head(head)
        return head

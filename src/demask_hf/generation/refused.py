"""Methods of transformers' `GenerationMixin` that only make sense where text grows from the left."""

from typing import Any, NoReturn


class LeftToRightMethods:
    """Goes before `GenerationMixin`: each of its methods refuses, in one sentence."""

    @property
    def init_continuous_batching(self) -> NoReturn:
        """Not there: servers ask whether a model has it before they offer continuous batching."""
        raise AttributeError(f"{type(self).__name__} has no continuous batching.")

    def generate_batch(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: continuous batching decodes from left to right.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "Continuous batching decodes from left to right, which this model cannot: pass a left-padded batch to "
            "`generate`."
        )

    def continuous_batching_context_manager(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, as `generate_batch`.

        Raises:
            NotImplementedError: always.
        """
        self.generate_batch()

    def compute_transition_scores(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a token's probability depends on the step that wrote it, and is not kept.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "There are no scores from one token to the next when decoding by unmasking; a logits processor sees the "
            "scores of each step."
        )

    def heal_tokens(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the tail of a prompt would be written again by left-to-right decoding.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "Token healing decodes from left to right, which this model cannot: replace the prompt's tail by mask "
            "tokens."
        )

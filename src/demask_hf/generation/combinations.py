"""Strategies and settings that cannot be combined, each refused in a sentence."""

from ..strategies import UnmaskingStrategy
from ..strategies.base import AnswerGaps, LastLayers
from .configuration import DemaskGenerationConfig


def looks_everywhere(rule: UnmaskingStrategy) -> bool:
    """Return whether a strategy reads or changes other positions than the candidates."""
    wide = ("context_confidence", "review")
    return rule.remasks or any(isinstance(need, LastLayers | AnswerGaps) or need in wide for need in rule.needs)


def check_every_position_is_seen(rule: UnmaskingStrategy, config: DemaskGenerationConfig) -> None:
    """Refuse a cache and compilation for a strategy that reads or changes other positions than the candidates."""
    if not looks_everywhere(rule):
        return
    for name, plain in (("block_cache", "none"), ("compile", False)):
        if getattr(config, name) not in (plain, None):
            raise ValueError(
                f"`{name}` must be {plain!r} for strategy {rule.name!r}, which looks at every position in every step, "
                f"got {getattr(config, name)!r}."
            )


def check_drafts(rule: UnmaskingStrategy, config: DemaskGenerationConfig) -> None:
    """Refuse what cannot be combined with versions of a row."""
    if rule.num_versions == 1:
        return
    if rule.remasks:
        raise ValueError(
            f"`num_versions` must be 1 for a strategy that remasks, got {rule.num_versions} of "
            f"{getattr(rule, 'name', type(rule).__name__)!r}."
        )
    if config.constraint is not None:
        raise ValueError(
            f"`constraint` must be None for strategy {rule.name!r}, whose drafts are verified with the model's own "
            f"predictions, got {config.constraint!r}."
        )
    if config.cache_refresh_interval is not None:
        raise ValueError(
            f"`cache_refresh_interval` must be None for strategy {rule.name!r}, whose drafts use the keys and values "
            f"of their block, got {config.cache_refresh_interval}."
        )


def check_batch_invariance(config: DemaskGenerationConfig) -> None:
    """Refuse to compile what must not depend on other rows.

    Raises:
        ValueError: if both are asked for.
    """
    if config.batch_invariant and config.compile:
        raise ValueError(
            "`compile` must be False with `batch_invariant=True`, as what is compiled depends on the lengths of other "
            f"rows, got {config.compile!r}."
        )

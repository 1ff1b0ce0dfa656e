"""The dependency head: the network, its file format, adapters, certificate and publication.

Read `modeling_demask.py` first, the network; with `layers_demask.py` and `configuration_demask.py` it is copied into
every repository of a head and works there without this package. Then `loading.py` and `publishing.py` (to and from the
Hub), `importing.py` (somebody else's head), `weights.py` (what files hold, seen before anything is built; native
models use it, too), `adapters.py` (PEFT; needs the extra "train") and `certificate.py` (the settings that a bound was
calibrated for).
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


if TYPE_CHECKING:
    from .adapters import add_lora, load_merged
    from .certificate import differences, uncertify
    from .configuration_demask import DemaskConfig
    from .loading import load_head
    from .modeling_demask import DemaskHead, DependencyOutput
    from .publishing import export_head, model_card, push_head
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "adapters": (
                "add_lora",
                "load_merged",
            ),
            "certificate": (
                "differences",
                "uncertify",
            ),
            "configuration_demask": ("DemaskConfig",),
            "loading": ("load_head",),
            "modeling_demask": (
                "DemaskHead",
                "DependencyOutput",
            ),
            "publishing": (
                "export_head",
                "model_card",
                "push_head",
            ),
        },
    )

__all__ = [
    "DemaskConfig",
    "DemaskHead",
    "DependencyOutput",
    "add_lora",
    "differences",
    "export_head",
    "load_head",
    "load_merged",
    "model_card",
    "push_head",
    "uncertify",
]

"""The bound on the error of unmasking positions together: measured, verified, and chosen with a guarantee.

Read `joint.py` first (the model's own joint of a set, and the error of the product against it), then `visits.py` (the
states that decoding visits), `measurement.py` (one set measured), `verification.py` with `summary.py` and `figures.py`
(does the bound hold?), and `risks.py`, `calibration.py`, `certification.py` (which bound keeps a loss below a limit?).
Needs the extra "eval".
"""

from typing import TYPE_CHECKING

from ..lazy import lazy_names


if TYPE_CHECKING:
    from .calibration import Calibration, calibrate
    from .certification import certificate_of, store_certificate
    from .joint import OrderedSet, draw_from_joint, exact_error, sampled_errors
    from .measurement import SetMeasurement, VerificationSettings, measure_set
    from .risks import Rollouts
    from .verification import verify
    from .visits import VisitedState, visit
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "calibration": (
                "Calibration",
                "calibrate",
            ),
            "certification": (
                "certificate_of",
                "store_certificate",
            ),
            "joint": (
                "OrderedSet",
                "draw_from_joint",
                "exact_error",
                "sampled_errors",
            ),
            "measurement": (
                "SetMeasurement",
                "VerificationSettings",
                "measure_set",
            ),
            "risks": ("Rollouts",),
            "verification": ("verify",),
            "visits": (
                "VisitedState",
                "visit",
            ),
        },
    )

__all__ = [
    "Calibration",
    "OrderedSet",
    "Rollouts",
    "SetMeasurement",
    "VerificationSettings",
    "VisitedState",
    "calibrate",
    "certificate_of",
    "draw_from_joint",
    "exact_error",
    "measure_set",
    "sampled_errors",
    "store_certificate",
    "verify",
    "visit",
]

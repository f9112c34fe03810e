"""What scores are: raw logits, or outputs of a sigmoid that are turned back into logits."""

from typing import Literal

import numpy as np
import numpy.typing as npt

ValueSpace = Literal["logit", "sigmoid"]

# A sigmoid hides what lies above a logit of 13.8 or below -13.8. Where a scorer rounds to half precision, good answers tie earlier.
SATURATED = 1e-6
_FP32_STEP = 2.0**-24  # next to 1, an fp32 score knows no smaller one: a logit of 16.6


def is_saturated(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which outputs of a sigmoid, (n,), are so near to 0 or 1 that their logit is lost."""
    return (probabilities <= SATURATED) | (probabilities >= 1 - SATURATED)


def logits_of_probabilities(probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logits, (n,), of outputs of a sigmoid, each taken as at least 2^-24 away from 0 and 1 (a logit of 16.6)."""
    inside = np.clip(probabilities, _FP32_STEP, 1 - _FP32_STEP)
    found: npt.NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return found

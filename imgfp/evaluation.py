"""Former name of `imgfp.scoring.metrics`, kept so that existing code goes on working."""

import warnings

from imgfp.scoring.metrics import Metrics, evaluate

__all__ = ["Metrics", "evaluate"]

warnings.warn(
    "imgfp.evaluation is now imgfp.scoring.metrics; import evaluate from there",
    DeprecationWarning,
    stacklevel=2,
)

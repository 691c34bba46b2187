"""Interactive browsers of a finished run. Each takes `Results` and works on stored results alone; none
needs a model."""

from imgfp.widgets.base import show
from imgfp.widgets.crops import CropBrowser
from imgfp.widgets.inspector import MatchInspector
from imgfp.widgets.review import ReviewQueue
from imgfp.widgets.thresholds import ThresholdTuner
from imgfp.widgets.votes import VoteView

__all__ = [
    "CropBrowser",
    "MatchInspector",
    "ReviewQueue",
    "ThresholdTuner",
    "VoteView",
    "show",
]

"""Browsers for a finished run. Each takes `Results`, draws with `viz`, and repeats one pure decision
on what the run has stored; none needs a model."""

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

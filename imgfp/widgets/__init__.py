# SPDX-License-Identifier: AGPL-3.0-or-later
"""Interactive browsers of a finished run. Each takes `Results` and works on stored results alone; none
needs a model."""

from imgfp.widgets.base import show
from imgfp.widgets.crops import CropBrowser
from imgfp.widgets.inspector import MatchInspector
from imgfp.widgets.points import EvidenceMap
from imgfp.widgets.review import ReviewQueue
from imgfp.widgets.thresholds import ThresholdTuner
from imgfp.widgets.tuner import PipelineTuner
from imgfp.widgets.votes import VoteView

__all__ = [
    "CropBrowser",
    "EvidenceMap",
    "MatchInspector",
    "PipelineTuner",
    "ReviewQueue",
    "ThresholdTuner",
    "VoteView",
    "show",
]

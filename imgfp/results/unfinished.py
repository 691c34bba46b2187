# SPDX-License-Identifier: AGPL-3.0-or-later
"""A run before notebook 09: scores as its evidence so far gives them."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from imgfp.results import Results


class UnfinishedRun(Results):
    """A run whose predictions are those that its evidence so far gives, whatever it has written."""

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """As `Results.predictions`, of the pairs verified until now; no row before the first."""
        return self.fused()

    @cached_property
    def probabilities(self) -> bool:
        """As `Results.probabilities`."""
        return self.fusion_model is not None

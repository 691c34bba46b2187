# SPDX-License-Identifier: AGPL-3.0-or-later
"""What differs between two aligned pictures, at full resolution: another text in the same form, another face on the
same card.

Verification compares thumbnails, in which two receipts of one shop are alike in every block. Here blocks are as small
as a few letters. A block counts as differing where no displacement of a few pixels makes it correlate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgfp.verify.correlation import NCC_INLIER, Alignment

#: Longer side of the working frame in pixels: a block is then as large as one or two letters of a page.
LOOK_PX = 640
#: Displacement, in working pixels, that a misalignment may cause.
_REACH_PX = 2
#: Standard deviation in grey levels from which a block is compared.
_TEXTURED = 10.0


@dataclass(frozen=True)
class Differences:
    """compared: textured blocks in the overlap; differing: those of them that show something else."""

    compared: int
    differing: int

    @property
    def share(self) -> float:
        """Differing blocks over compared ones, 0..1; 1 where nothing could be compared."""
        return self.differing / self.compared if self.compared else 1.0


def find_differences(alignment: Alignment) -> Differences:
    """Compare two pictures, best given at full resolution, within their overlap."""
    overlay = alignment.overlay(LOOK_PX)
    if overlay is None or not overlay.covered.size:
        return Differences(0, 0)
    textured = overlay.weight >= _TEXTURED
    differing = textured & (overlay.displacements(_REACH_PX).strength <= NCC_INLIER)
    return Differences(int(np.count_nonzero(textured)), int(np.count_nonzero(differing)))

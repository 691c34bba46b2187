# SPDX-License-Identifier: AGPL-3.0-or-later
"""The plan of the smallest detector that ultralytics builds."""

PLAN = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],
        [-1, 1, "Conv", [8, 3, 4]],
        [-1, 1, "C3k2", [8, False]],
    ],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}

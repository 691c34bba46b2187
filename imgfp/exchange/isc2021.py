# SPDX-License-Identifier: AGPL-3.0-or-later
"""The files of the 2021 system (team imgFp), laid out as in its own repository."""

from __future__ import annotations

from pathlib import Path

from imgfp.results import Results
from imgfp.store import formats


def write(results: Results, folder: Path) -> list[Path]:
    """Write what a run holds as the 2021 system would have left it below `folder`; returns the files."""
    final = folder / "match_score/final_result.txt"
    formats.write_scores(final, results.predictions)
    return [final]

# SPDX-License-Identifier: AGPL-3.0-or-later
"""The report of a finished run: one HTML file without external resources, and its answers as a table."""

from imgfp.report.answers import matches
from imgfp.report.page import TARGETS, build
from imgfp.report.pairs import evidence_in_words

__all__ = ["TARGETS", "build", "evidence_in_words", "matches"]

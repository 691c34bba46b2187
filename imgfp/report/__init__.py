# SPDX-License-Identifier: AGPL-3.0-or-later
"""The report of a finished run and its answers as a table, the file of one case, the duplicates of a folder: HTML without
external resources, or PDF."""

from imgfp.report.answers import matches
from imgfp.report.case import Case
from imgfp.report.duplicates import build_duplicates
from imgfp.report.page import TARGETS, build
from imgfp.report.pairs import evidence_in_words

__all__ = ["TARGETS", "Case", "build", "build_duplicates", "evidence_in_words", "matches"]

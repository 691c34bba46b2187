"""The report of a finished run: one HTML file without scripts and without external resources."""

from imgfp.report.page import TARGETS, build
from imgfp.report.pairs import evidence_in_words

__all__ = ["TARGETS", "build", "evidence_in_words"]

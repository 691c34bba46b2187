# SPDX-License-Identifier: AGPL-3.0-or-later
"""imgfp: image copy detection, finds the reference image that a query was made from.

Read downwards; each package uses only those above it.

datatypes, images, geometry, inference  records and tables, safe decoding, homographies, ONNX sessions
sift                    keypoints and RootSIFT descriptors; mirrored and contrast-reversed variants
scoring                 fusion of evidence into one score per pair; metrics, thresholds, errors
edits                   seeded image edits with exact geometry
crops                   detection of images pasted inside a query
descriptors             one vector per image: networks, hashes, query views
search                  Faiss indexes, voting of keypoints, score normalisation
verify                  matching, homography estimation, block NCC, refinement, pair classifier
store                   artefacts of a library or a run: written whole, with fingerprints and locks
viz                     figures, match lines, overlays, SVG
runner                  parameter files, notebook execution, Dask, installation check
demo                    demo corpus: photographs, synthetic distractors, edited queries
stages                  what each numbered notebook does to one shard
training                crop detector, descriptor, pair classifier; calibration
results, benchmarks     a finished run, read and compared; speed and capacity
report, widgets         report.html; browsers for notebook 10
exchange                a finished run in the files of other systems
lookup                  pictures looked up in a library, in one process
__main__                the command line
"""

from typing import Any

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """`imgfp.Library`, imported when it is first used: the command line starts without it."""
    if name == "Library":
        from imgfp.lookup import Library

        return Library
    raise AttributeError(f"module 'imgfp' has no attribute {name!r}")

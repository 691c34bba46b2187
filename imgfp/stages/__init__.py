# SPDX-License-Identifier: AGPL-3.0-or-later
"""The stages of the numbered notebooks, one call each.

A call divides its work into shards, runs those that are not up to date on the cluster, and returns a
report. The module of a stage also holds the function that a worker process runs on one shard, and the
readers of the tables that the stage writes.
"""

from imgfp.stages.crops import choose_crops, detect_crops
from imgfp.stages.descriptors import describe_queries, describe_references
from imgfp.stages.features import extract_crop_features, extract_local_features
from imgfp.stages.groups import group_copies, name_copies
from imgfp.stages.index import build_index
from imgfp.stages.inventory import list_images
from imgfp.stages.listed import list_candidates, list_predictions, list_queries
from imgfp.stages.search import crop_search, global_search, local_search
from imgfp.stages.truth import check_truth, save_truth
from imgfp.stages.verification import verify_first, verify_pairs

__all__ = [
    "build_index",
    "check_truth",
    "choose_crops",
    "crop_search",
    "describe_queries",
    "describe_references",
    "detect_crops",
    "extract_crop_features",
    "extract_local_features",
    "global_search",
    "group_copies",
    "list_candidates",
    "list_images",
    "list_predictions",
    "list_queries",
    "local_search",
    "name_copies",
    "save_truth",
    "verify_first",
    "verify_pairs",
]

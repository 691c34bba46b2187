# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every parameter of the notebooks: type, range, choices, unit and meaning, once.

A notebook declares the parameters that it uses, with the default that it runs by on its own; the schema
says what a value may be, whichever notebook it goes to. Defaults here are those of a run; where a
notebook needs another one, PER_NOTEBOOK names it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

Count = Annotated[int, Field(ge=0, le=10**9)]
Positive = Annotated[int, Field(ge=1, le=10**12)]
Share = Annotated[float, Field(ge=0, le=1)]
Px = Annotated[int, Field(ge=16, le=10_000)]
Device = Annotated[
    str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$", examples=["auto", "cpu", "cuda", "cuda:1"])
]
Address = Annotated[
    str,
    Field(pattern=r"^(local|(tcp|tls|ucx|ws|wss)://\S+)$", examples=["local", "tls://host:8786"]),
]
Variant = Literal["plain", "mirrored", "contrast_reversed"]
#: Names of `descriptors.views.VIEWS`; a test compares them.
View = Literal["whole", "mirror", "flip", "rot90", "rot180", "rot270", "mirror-rot90", "mirror-rot270", "centre70", "centre50"]  # fmt: skip


def _of(default: Any, help: str, unit: str = "") -> Any:
    return Field(default, description=help, json_schema_extra={"unit": unit})


class Parameters(BaseModel):
    """What a parameter file may set."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # Where, and by whom
    reference_dir: str = _of(
        "data/demo/references",
        "folder or manifest CSV; blank: the library as it is",
    )
    query_dir: str = _of("data/demo/queries", "folder or manifest CSV of queries")
    query_list: str = _of("", "text of names of the queries to take, one per line; blank takes all")
    truth: str = _of("data/demo/truth.csv", "CSV query_id,reference_id; blank is no truth")
    library_dir: str = _of("library/demo", "the reference side, shared by many runs")
    run_dir: str = _of("runs/demo", "everything about one batch of queries or one training")
    cluster: Address = _of("local", "processes of this machine, or the address of a Dask scheduler")
    insecure_cluster: bool = _of(
        False, "true allows a scheduler without TLS, in a network that you trust"
    )
    workers: Annotated[int, Field(ge=0, le=4096)] = _of(
        0, "worker processes on this machine; 0 is one per core", "processes"
    )
    device: Device = _of("auto", "auto takes a GPU where one can be used; or cpu, cuda, cuda:1")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = _of(0, "of every random choice")

    # 00 demo corpus
    demo_dir: str = _of("data/demo", "folder that the corpus is written to")
    demo_painted: Count = _of(
        300, "painted pictures among the references, as distractors", "images"
    )
    demo_positives: Count = _of(100, "queries made from a reference", "queries")
    demo_negatives: Count = _of(50, "queries made from pictures that are no reference", "queries")

    # 01 images
    shard_images: Annotated[int, Field(ge=1, le=100_000)] = _of(
        256, "images per shard, the unit that is kept when a run is killed", "images"
    )
    thumbnail_short_side_px: Annotated[int, Field(ge=32, le=2048)] = _of(
        192, "of stored thumbnails; verification compares at this size", "px"
    )
    max_file_mb: Annotated[float, Field(gt=0, le=4096)] = _of(
        64.0, "larger files are refused unread", "MB"
    )
    max_megapixels: Annotated[float, Field(gt=0, le=4096)] = _of(
        50.0, "larger pictures are refused before they are decoded", "Mpx"
    )
    max_decode_seconds: Annotated[float, Field(gt=0, le=86_400)] = _of(
        4.0, "processor time that one file may take", "s"
    )
    max_decode_memory_mb: Annotated[float, Field(gt=0, le=1_000_000)] = _of(
        800.0, "memory that one file may take", "MB"
    )
    max_frames: Annotated[int, Field(ge=1, le=1000)] = _of(
        4,
        "frames or pages of a file that are searched; 1 is the first only",
        "frames",
    )

    most_lost_share: Share = _of(
        0.5, "a folder that has lost more of its pictures is refused; 1 is off", "share"
    )

    # 04 crops
    crop_detector: str = _of("imgfp", "imgfp, classical, none, or a file .onnx, .safetensors, .csv")
    global_crop_detector: str = _of("", "another for the global operating point; blank is the same")
    local_crops_dir: str = _of(
        "", "folder of crops cut elsewhere, named as the queries; blank is none"
    )
    global_crops_dir: str = _of("", "the same for the global operating point; blank is none")
    local_crop_list: str = _of("", "text of names and confidences of local crops; blank takes all")
    crop_features_file: str = _of("", "keypoint texts of the best local crops; blank extracts them")
    local_min_confidence: Share = _of(
        0.1, "boxes above it are searched beside the whole query; 1 is off"
    )
    global_min_confidence: Share = _of(
        0.82, "a box above replaces the query in the global branch; 1 is off"
    )
    crop_max_area: Annotated[float, Field(gt=0, le=1)] = _of(
        0.85, "larger boxes are no crop; 1 is off", "share of the query's area"
    )
    crop_max_aspect: Annotated[float, Field(ge=1, le=1000)] = _of(
        4.0, "longest side ratio of a box, in the query made square", "ratio"
    )
    max_crops: Annotated[int, Field(ge=1, le=100)] = _of(
        3, "boxes per query at the local operating point", "boxes"
    )

    # 02 local features
    local_features_file: str = _of("", "keypoint text of a query or folder of them; blank extracts")
    reference_features_file: str = _of("", "keypoint texts of the references; blank extracts them")
    sift_short_side_px: Annotated[int, Field(ge=0, le=10_000)] = _of(
        300, "images are shrunk to it, never enlarged; 0 is off", "px"
    )
    sift_first_octave: Literal[-1, 0] = _of(
        0, "-1 doubles the image first: finer keypoints, four times the work"
    )
    sift_octave_layers: Annotated[int, Field(ge=1, le=16)] = _of(7, "scales per octave", "layers")
    sift_contrast_threshold: Annotated[float, Field(ge=0, le=1)] = _of(
        0.0137, "higher drops faint keypoints; 0 is off"
    )
    sift_edge_threshold: Annotated[float, Field(gt=0, le=10_000)] = _of(
        10.0, "lower drops keypoints along edges"
    )
    sift_max_keypoints: Count = _of(
        0, "keypoints kept per image, strong ones spread over it; 0 keeps all", "keypoints"
    )
    sift_min_keypoints: Count = _of(10, "images with fewer have no local features", "keypoints")

    # 03, 05 local and crop search
    local_candidates_file: str = _of("", "pairs of the branch local; blank searches")
    crop_candidates_file: str = _of("", "pairs of the branch crop; blank searches")
    local_index: str = _of("auto", "auto plans by size; Flat is exact; or e.g. IVF4096,PQ32x4fsr")
    local_nprobe: Annotated[int, Field(ge=0, le=1_000_000)] = _of(
        0, "lists visited per keypoint, more finds more; 0 is planned with the index", "lists"
    )
    local_neighbours: Annotated[int, Field(ge=1, le=2048)] = _of(
        11, "nearest reference keypoints per query keypoint", "keypoints"
    )
    descriptor_variants: Annotated[list[Variant], Field(min_length=1)] = _of(
        ["plain", "mirrored", "contrast_reversed"],
        "fewer are faster",
    )
    local_candidates: Annotated[int, Field(ge=1, le=10_000)] = _of(
        10, "best references kept per query and branch", "references"
    )
    vote_rule: Literal["seed", "robust"] = _of(
        "robust", "seed counts every hit, robust one per place and reference keypoint"
    )
    vote_ratio: Annotated[float, Field(ge=1, le=1000)] = _of(
        1.5,
        "robust: last over first squared distance that a hit needs; 1 is off",
        "ratio of squared distances",
    )
    vote_min_hits: Count = _of(
        3, "accepted with more hits than this, and more than the runner-up", "hits"
    )
    vote_min_hits_single: Count = _of(
        5, "accepted with more hits than this where only one reference was hit", "hits"
    )
    vote_max_mean_squared_distance: Annotated[float, Field(gt=0, le=130_050)] = _of(
        8000.0, "accepted below it; 8000 is a cosine of 0.938", "squared distance of RootSIFT x 255"
    )
    certain_score: Share = _of(
        0.9, "queries whose first candidates reach it are searched no more; 1 is off"
    )
    index_part_images: Positive = _of(
        1_000_000, "references per part of the index: what one machine searches", "images"
    )

    # 06, 07 global descriptors and search
    descriptor_model: str = _of(
        "auto", "auto, sscd-student, sscd-int8, imgfp, gist-grid, or any of timm"
    )
    descriptor_weights: str = _of("", "file of weights; blank takes those that come with the model")
    descriptor_file: str = _of("", "challenge HDF5 of vectors made elsewhere; blank computes them")
    descriptor_batch_size: Annotated[int, Field(ge=1, le=65_536)] = _of(
        32, "images per batch; changes speed, not vectors", "images"
    )
    global_views: Annotated[list[View], Field(min_length=1)] = _of(
        ["whole", "mirror", "flip", "rot90", "rot270", "centre70"], "of a query"
    )
    global_crop_views: Annotated[list[View], Field(min_length=1)] = _of(
        ["whole", "mirror", "centre70"], "of a crop"
    )
    global_described: Literal["all", "sure"] = _of(
        "all",
        "all: query and crops; sure: the global crop, else the query",
    )
    global_index: str = _of("auto", "auto plans by size; Flat is exact; or e.g. IVF1024,SQfp16")
    global_nprobe: Annotated[int, Field(ge=0, le=1_000_000)] = _of(
        0, "lists visited per vector, more finds more; 0 is planned with the index", "lists"
    )
    global_candidates: Annotated[int, Field(ge=1, le=10_000)] = _of(
        10, "best references kept per query", "references"
    )
    normalise_neighbours: Annotated[int, Field(ge=0, le=10_000)] = _of(
        10,
        "nearest vectors whose mean similarity is subtracted; 0 is off",
        "vectors",
    )
    global_candidates_file: str = _of("", "pairs of the branch global; blank searches")
    background: str = _of("", "challenge HDF5 of background vectors; blank takes the library")

    # 08 match scores
    candidates_scored: Literal["all", "accepted"] = _of(
        "all", "all, or those that their branch's own rule accepted"
    )
    candidates_verified: Count = _of(
        6, "best of each branch and view that are verified; 0 is all", "references"
    )
    local_min_votes: Count = _of(
        0, "candidates of the branch with fewer votes are not verified; 0 is off", "votes"
    )
    crop_min_votes: Count = _of(
        0, "candidates of the branch with fewer votes are not verified; 0 is off", "votes"
    )
    global_min_similarity: Annotated[float, Field(ge=-2, le=2)] = _of(
        -2.0,
        "candidates of the branch below it are not verified; -2 is off",
        "difference of cosines",
    )
    match_ratio: Annotated[float, Field(ge=1, le=100)] = _of(
        1.8,
        "second over first squared distance in the match count; 1 is off",
        "ratio of squared distances",
    )
    local_scores_file: str = _of("", "scores of pairs of the branch local; blank measures them")
    crop_scores_file: str = _of("", "scores of pairs of the branch crop; blank measures them")
    global_scores_file: str = _of("", "scores of pairs of the branch global; blank measures them")
    pair_classifier: str = _of("", "ONNX file of a pair classifier; blank takes the shipped one")

    # 09, 10 fusion, evaluation, review
    fusion: Literal["calibrated", "sum"] = _of(
        "calibrated", "calibrated probability, or sum of match counts over the branches"
    )
    predictions_file: str = _of(
        "", "final scores of pairs made elsewhere; blank merges the evidence"
    )
    fusion_model: str = _of("", "JSON file of a fitted fusion model; blank takes the shipped one")
    expected_copies: Share = _of(
        0.0, "share of queries that are copies; 0 is that of the model's fit"
    )
    target_precision: Annotated[float, Field(gt=0, le=1)] = _of(
        0.9, "precision that the threshold reaches on the truth"
    )
    bootstrap_rounds: Annotated[int, Field(ge=0, le=1_000_000)] = _of(
        300, "resamplings for intervals; 0 shows none", "resamplings"
    )
    other_run_dir: str = _of("", "a second run to draw over the first; blank is none")
    score_threshold: Share = _of(
        0.0, "lowest score that is reported; 0 takes the measured threshold"
    )
    tuned_on: str = _of("", "SHA-256 of the truth that values were chosen by; blank is none")
    reviewer: str = _of("", "name in the decision log; can be typed in later")
    decisions_log: str = _of(
        "", "a decision log that several runs share; blank is one in the run folder"
    )

    # 20 to 23 training and calibration
    photo_dir: str = _of("data/photographs", "photographs of any size; subfolders are searched too")
    groups_csv: str = _of(
        "", "CSV path,group: photographs of one scene that are no copies; blank is none"
    )
    check_dir: str = _of("", "folder of queries with known answers; blank skips that part")
    check_boxes: str = _of("", "their boxes: CSV query_id,ops,x0,y0,x1,y1 as shares of the sides")
    check_references: str = _of("", "folder of the references they were made from, and others")
    check_truth: str = _of("", "their truth: CSV query_id,reference_id, blank for none")
    check_meta: str = _of("", "CSV query_id,ops: the edits of each query, joined by plus signs")
    check_views: list[View] = _of(
        [], "views of a query to search with; empty is all eight turns and mirrors"
    )
    check_photographs: Count = _of(
        40, "held-out photographs edited by each family; 0 skips it", "images"
    )
    export_dir: str = _of("", "folder for the two ONNX files; blank is run_dir")
    export_path: str = _of("", "file that the result is written to; blank is run_dir")
    init_weights: str = _of("", ".safetensors to start from; blank is random weights")
    start_weights: str = _of("", "descriptor.safetensors to start from; blank is random weights")
    steps: Positive = _of(
        6000, "training steps; may be changed when a training is resumed", "steps"
    )
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = _of(
        32, "images or pairs per training step", "items"
    )
    learning_rate: Annotated[float, Field(gt=0, le=1)] = _of(0.002, "of AdamW, at its maximum")
    held_out: Count = _of(500, "last photographs by name, kept for validation", "images")
    picture_makers: Annotated[int, Field(ge=0, le=1024)] = _of(
        1,
        "processes that generate training images; 0: the training process",
        "processes",
    )
    image_size: Px = _of(224, "side of the square training images, 32 more or less in turn", "px")
    final_image_size: Px = _of(
        256, "side of the images while the learning rate falls, and in use", "px"
    )
    width: Annotated[float, Field(gt=0, le=4)] = _of(
        0.1875, "of the detector network; 0.25 is YOLO11n's", "share of the widest network"
    )
    validation_scenes: Positive = _of(600, "generated from the held-out photographs", "images")
    scorer_scenes: Count = _of(4000, "generated images that the box scorer is trained on", "images")
    scorer_photographs: Count = _of(2000, "unedited photographs that it is trained on", "images")
    report_steps: Positive = _of(500, "steps between two validations", "steps")
    local_max_boxes: Annotated[float, Field(gt=0, le=100)] = _of(
        1.0, "boxes per generated image on average at the local operating point", "boxes"
    )
    global_min_precision: Annotated[float, Field(gt=0, le=1)] = _of(
        0.95, "on generated images at the global operating point"
    )
    max_false_per_100: Annotated[float, Field(ge=0, le=100)] = _of(
        0.6, "boxes per 100 held-out photographs at the global operating point", "boxes"
    )
    backbone: str = _of("regnetx_002", "any timm network that gives feature maps")
    descriptor_dim: Annotated[int, Field(ge=8, le=8192)] = _of(
        256, "length of a descriptor", "numbers"
    )
    start_px: Px = _of(80, "side of the training views at first", "px")
    end_px: Px = _of(128, "side of the training views after ramp_steps", "px")
    inference_px: Px = _of(
        160, "side of the resized image in use; 1.3 to 1.7 times end_px is best", "px"
    )
    start_strength: Share = _of(0.3, "of the edits at first")
    ramp_steps: Count = _of(4000, "steps until the edits are at their hardest", "steps")
    temperature: Annotated[float, Field(gt=0, le=10)] = _of(0.05, "of the contrastive loss")
    spreading: Annotated[float, Field(ge=0, le=1000)] = _of(
        1.0, "weight of the term that pushes neighbours apart; 0 is off"
    )
    memory: Count = _of(256, "earlier vectors that serve as negatives; 0 is off", "vectors")
    whitening_photographs: Count = _of(
        2500, "photographs to fit the last layer to; 0 keeps it as trained", "images"
    )
    distractors: Count = _of(
        500, "training photographs among the references of the validation", "images"
    )
    validate_seconds: Annotated[int, Field(ge=1, le=10**6)] = _of(
        600, "between two validations, each of which saves a checkpoint", "s"
    )
    bf16: bool = _of(True, "halves the time on a GPU or a CPU with avx512_bf16")
    references: Positive = _of(900, "photographs used as references", "images")
    negatives: Count = _of(
        800, "other photographs, the source of other queries and of hosts of pastes", "images"
    )
    rounds: Annotated[int, Field(ge=1, le=10_000)] = _of(3, "each with its own seed", "rounds")
    copies: Count = _of(200, "queries per round made from a reference", "queries")
    others: Count = _of(40, "queries per round made from a negative", "queries")
    scenes: Count = _of(
        120, "queries per round made from another photograph of a reference's scene", "queries"
    )
    drawings: Count = _of(
        60, "templates of flat graphics per round: a copy and other contents of each", "templates"
    )
    fitted_runs: list[str] = _of([], "finished runs with truth whose pairs are fitted as well")
    synthetic: Count = _of(
        260, "queries per round made from a simulated second photograph of a reference", "queries"
    )
    epochs: Annotated[int, Field(ge=1, le=10_000)] = _of(8, "passes over the pairs", "epochs")
    channels: Annotated[int, Field(ge=1, le=1024)] = _of(
        16, "of the first layer; the others follow", "channels"
    )

    # 24 robustness lab
    edit_families: list[str] = _of([], "names, or chains as mirror+paste; empty is all")
    edit_strengths: Annotated[list[Share], Field(min_length=1)] = _of(
        [0.25, 0.5, 0.75, 1.0], "0..1, from hardly visible to the hardest"
    )
    copies_per_point: Positive = _of(6, "queries per family and strength", "queries")
    further_edits: Annotated[int, Field(ge=0, le=8)] = _of(
        0, "edits of other families beside each, drawn at random; 0 is each alone", "edits"
    )
    unrelated: Count = _of(150, "queries made of photographs that are held out", "queries")
    edited_short_side_px: Px = _of(512, "photographs are shrunk to it before they are edited", "px")
    measured_profile: str = _of("params/mine.yaml", "parameter file of the system that is measured")
    measured_settings: list[str] = _of(
        ["certain_score: 1"], "values by name, in the place of the profile's"
    )

    # 30 to 32 benchmarks, capacity, comparison
    benchmark_images: Positive = _of(160, "reference images that are extracted again", "images")
    benchmark_queries: Positive = _of(30, "queries that are searched again", "queries")
    benchmark_pairs: Positive = _of(100, "pairs that are verified again", "pairs")
    benchmark_nprobes: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] = _of(
        [1, 2, 4, 8, 16, 32], "lists visited; the largest is the yardstick", "lists"
    )
    queries: Positive = _of(50000, "queries per day", "queries")
    cores: Annotated[int, Field(ge=1, le=10**6)] = _of(16, "of one machine", "cores")
    memory_gb: Annotated[float, Field(gt=0, le=10**6)] = _of(64.0, "of one machine", "GB")
    certain_share: Share = _of(0.5, "queries that their first candidates answer")
    before_run: str = _of("runs/demo_sum", "the run to compare with")
    after_run: str = _of("runs/demo", "the run that should be better")
    pairs_shown: Annotated[int, Field(ge=0, le=1000)] = _of(
        6, "pairs shown per kind of change", "pairs"
    )
    save_dir: str = _of("", "folder for the tables as CSV; blank saves none")

    # 33 sweep
    tuned_run: str = _of("runs/demo", "a finished run with truth")
    tried: Annotated[list[str], Field(min_length=1)] = _of(
        ["candidates_verified: 6,3,2,1"], "values by name; every combination is tried"
    )
    allowed_loss: Share = _of(0.002, "of micro-AP, for the cheapest setting within it")
    wider_dir: str = _of("", "folder of a run that keeps all that values need; blank makes none")
    written_profile: str = _of("", "parameter file that the chosen values go to; blank is none")


#: Defaults of single notebooks that differ from those above: notebook number -> name -> value.
PER_NOTEBOOK: dict[str, dict[str, Any]] = {
    "01": {"shard_images": 64},
    "20": {"run_dir": "runs/train_crop_detector", "batch_size": 16},
    "21": {"run_dir": "runs/train_descriptor", "steps": 20000, "learning_rate": 0.0015},
    "22": {"run_dir": "runs/calibrate"},
    "23": {
        "run_dir": "runs/train_pair_classifier",
        "references": 800,
        "rounds": 12,
        "copies": 500,
        "others": 130,
        "scenes": 260,
        "held_out": 900,
        "batch_size": 64,
        "learning_rate": 0.003,
    },
    "24": {"run_dir": "runs/robustness", "library_dir": "library/robustness", "negatives": 60},
    "31": {"references": 1_000_000},
    "32": {"bootstrap_rounds": 1000},
    "33": {"bootstrap_rounds": 1000},
}


def comment(name: str) -> str:
    """Meaning, off-switch and physical unit of a parameter, as notebooks have it in a comment."""
    help, unit = str(Parameters.model_fields[name].description), _unit(name)
    return f"{help}; {unit}" if unit in ("px", "s", "ms", "kB", "GB") else help


def choices(name: str) -> tuple[Any, ...]:
    """The words that a parameter, or each item of its list, may be; empty where any value is legal."""
    kind = Parameters.model_fields[name].annotation
    if get_origin(kind) is list:
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) is Literal else ()


def allowed(name: str) -> str:
    """What a parameter may be, in words: "from 1 to 2048 keypoints"."""
    field, unit = Parameters.model_fields[name], _unit(name)
    if choices(name):
        return " or ".join(map(str, choices(name)))
    if field.examples:
        return " or ".join(map(str, field.examples))
    bounds = _bounds(field)
    said = [
        f"{word} {bounds[key]:,}".removesuffix(".0")
        for key, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below"))
        if key in bounds
    ]
    return " ".join([*said, f"({unit})" if " " in unit else unit]).strip()


def _unit(name: str) -> str:
    extra = Parameters.model_fields[name].json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def _bounds(field: FieldInfo) -> dict[str, Any]:
    kinds = {"ge": annotated_types.Ge, "gt": annotated_types.Gt, "le": annotated_types.Le, "lt": annotated_types.Lt}  # fmt: skip
    return {
        key: getattr(one, key)
        for one in field.metadata
        for key, kind in kinds.items()
        if isinstance(one, kind)
    }

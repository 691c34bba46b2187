# SPDX-License-Identifier: AGPL-3.0-or-later
"""Look pictures up in a library now, in this process, by the stages of the notebooks.

    from imgfp import Library

    library = Library("library/mine")
    found = library.look("picture.jpg")
    found.table  # a row per answer: reference, score, edit in words, region
    found.save("answers.html")

Index, descriptors and models stay in memory, so that the second look is fast.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from imgfp import stages, store, text
from imgfp.decoding import Limits
from imgfp.images import encode_png
from imgfp.results import Results
from imgfp.results.files import LIMITS
from imgfp.runner import params, project
from imgfp.runner.cluster import HERE
from imgfp.runner.schema import Parameters
from imgfp.stages.features import sift_settings
from imgfp.stages.inventory import list_files, save_rejects
from imgfp.store import formats

if TYPE_CHECKING:
    from imgfp.report import Case
    from imgfp.widgets import ReviewQueue

#: A picture to look up: a file or a folder of them, its bytes, or its pixels (H,W,3) uint8 RGB.
Picture = str | os.PathLike[str] | bytes | np.ndarray


class Library:
    """A finished library, opened to look pictures up.

    library_dir: the folder that notebooks 01 to 07 made. parameters: of the notebooks, where they are not to have their
    defaults; what the references were made with (keypoints, descriptor, thumbnails) is taken from the library. Raises
    StoreError for a folder that holds no finished library, ParameterError for a parameter that does not exist or is
    not within its range.
    """

    def __init__(self, library_dir: str | os.PathLike[str], **parameters: Any) -> None:
        self._library = store.Library(store.project_path(library_dir))
        made_with = _made_with(self._library)
        known: dict[str, params.Declared] = {}
        for path in sorted(project.notebooks().glob("0[1-9]_*.ipynb")) if parameters else ():
            known |= params.declared_by(path)
        known.pop("run_dir", None)  # a look-up has a folder of its own
        given = params.check(parameters, known)
        if fixed := sorted(given.keys() & made_with.keys()):
            raise params.ParameterError(
                f"parameter '{fixed[0]}': {store.show(self._library.root)} was made with "
                f"{made_with[fixed[0]]!r}, and what is looked up must be made in the same way; leave it out"
            )
        defaults = {name: entry.default for name, entry in Parameters.model_fields.items()}
        self._changed = made_with | given
        self._values = defaults | self._changed

    def look(self, *pictures: Picture) -> Found:
        """Look up one picture or several. Raises StoreError for a file that does not exist; what is no picture
        stands in `Found.rejects`."""
        place = tempfile.TemporaryDirectory(prefix="imgfp-look-")
        folder = Path(place.name)
        rows = list(_manifest(folder, pictures))
        manifest = folder / "queries.csv"
        store.write_sheet(manifest, pd.DataFrame(rows, columns=["image_id", "path"]))
        run = store.Run(folder / "look")
        with redirect_stdout(io.StringIO()), store.short_lived():
            library = self._search(run, str(manifest))
        log = str(library.decisions_jsonl)
        results = _Looked(run, library, **self._changed, decisions_log=log)
        formats.write_predictions(run.predictions_csv, results.fused())
        save_rejects(run, library)
        results.place = place
        return Found(results)

    def _search(self, run: store.Run, manifest: str) -> store.Library:
        """Notebooks 01 to 08 on the queries of a manifest; returns the snapshot of the library that they saw."""
        value = self._values
        here: dict[str, Any] = {"cluster": HERE}

        def named(*names: str, prefix: str = "", strip: str = "") -> dict[str, Any]:
            return {name.removeprefix(strip): value[prefix + name] for name in names}

        limits = Limits(
            *named(
                "max_file_mb",
                "max_megapixels",
                "max_decode_seconds",
                "max_decode_memory_mb",
                "max_frames",
            ).values()
        )
        listed = named("shard_images", "thumbnail_short_side_px", "most_lost_share")
        stages.list_images(run, manifest, limits=limits, **listed, **here)
        library = store.begin(run, self._library)
        stages.extract_local_features(run, **sift_settings(library), **here)
        rules = named(
            "rule",
            "ratio",
            "min_hits",
            "min_hits_single",
            "max_mean_squared_distance",
            prefix="vote_",
        )
        rules |= named("nprobe", "neighbours", "candidates", prefix="local_")
        rules |= {"variants": value["descriptor_variants"], "device": value["device"]}
        stages.local_search(run, library, **rules, **here)
        scoring = named("match_ratio", "pair_classifier")
        first = named("certain_score", "fusion_model", "descriptor_model")
        first |= named("candidates_scored", "local_min_votes")
        stages.verify_first(run, library, **first, **scoring, **here)
        stages.detect_crops(run, **named("crop_detector", "device"), **here)
        points = named("local_min_confidence", "global_min_confidence", "max_crops")
        points |= named("max_area", "max_aspect", prefix="crop_")
        stages.choose_crops(run, **points)
        stages.extract_crop_features(run, **here)
        stages.crop_search(run, library, **rules, **here)
        model = named(
            "descriptor_model", "descriptor_weights", "descriptor_batch_size", strip="descriptor_"
        )
        views = named("global_views", "global_described", strip="global_")
        views |= {"crop_views": value["global_crop_views"], "device": value["device"], "file": ""}
        stages.describe_queries(run, **views, **model, **here)
        similar = named("nprobe", "candidates", prefix="global_")
        similar |= named("normalise_neighbours", "background", "device")
        stages.global_search(run, library, **similar, **here)
        stages.verify_pairs(run, library, **named(*LIMITS), **scoring, **here)
        return library


class _Looked(Results):
    """Answers to pictures that were looked up: what is not among the changed parameters had its default."""

    looked_up = True
    unrecorded = ""
    #: The temporary folder of the run, which is deleted with whatever reads it last.
    place: tempfile.TemporaryDirectory


@dataclass
class Found:
    """What a look found. Its temporary folder is deleted with it; decisions on its pairs are kept with the library.

    results: the run of these pictures, for `imgfp.report` and the widgets.
    """

    results: Results

    @cached_property
    def table(self) -> pd.DataFrame:
        """The answers of each picture that could be read, best first: query and reference (paths), score (probability
        of a copy), copy (it is reported as one), relation (see `scoring.relations`), transform (the edit in words),
        query_region and reference_region (polygons (k,2) of the overlap in pixels, or None), other_copies (paths of
        references with the same picture)."""
        results = self.results
        found = results.pairs[["query_id", "reference_id", "score", "relation"]]
        paths = zip(
            results.paths("query", found["query_id"].tolist()),
            results.paths("reference", found["reference_id"].tolist()),
            strict=True,
        )
        rows = []
        for (query_id, reference_id, score, relation), both in zip(
            found.itertuples(index=False), paths, strict=True
        ):
            evidence = results.best_evidence(query_id, reference_id)
            regions = results.outlines(query_id, reference_id)
            copies = results.groups.others(reference_id)
            rows.append(
                (
                    *both,
                    score,
                    score >= (results.threshold or 0.5),
                    relation,
                    "" if evidence is None else str(evidence.get("transform") or ""),
                    *regions,
                    results.paths("reference", copies) if copies else [],
                )
            )
        names = "query reference score copy relation transform query_region reference_region other_copies"
        return pd.DataFrame(rows, columns=names.split())

    @property
    def rejects(self) -> pd.DataFrame:
        """Pictures that could not be searched: path, reason."""
        return self.results.rejects

    def __str__(self) -> str:
        """The copies, a line each, the pictures without any, and those that could not be read."""
        searched = self.results.paths("query", self.results.queries.index.tolist())
        answers: dict[str, list[str]] = {path: [] for path in sorted(searched)}
        for row in self.table[self.table["copy"]].to_dict("records"):
            line = f"{text.score(row['score'])}  {text.label(row['reference'], 0)}"
            if count := len(row["other_copies"]):
                line += f" (and {count:,} with the same picture)"
            said = ", ".join(filter(None, (row["relation"], row["transform"])))
            answers[row["query"]].append(f"{line}: {said}" if said else line)
        for row in self.rejects.to_dict("records"):
            answers[row["path"]] = [f"not searched: {row['reason']}"]
        lines = []
        for path, found in answers.items():
            lines += [text.label(path, 0), *(f"  {line}" for line in found or ["no copy is known"])]
        return "\n".join(lines)

    def to_json(self) -> str:
        """`table` and `rejects` as a JSON object; regions are lists of points x, y in pixels."""
        found = self.table.to_dict("records")
        for row in found:
            for name in ("query_region", "reference_region"):
                row[name] = None if row[name] is None else np.round(row[name], 1).tolist()
        answer = {"found": found, "rejects": self.rejects.to_dict("records")}
        return json.dumps(answer, indent=1, allow_nan=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the answers as one HTML page, which loads nothing from elsewhere."""
        from imgfp import report  # a look-up in a terminal does not wait for it

        store.write_bytes(Path(path), report.build(self.results, rounds=0).encode())

    def case(self, row: int = 0) -> Case:
        """The case file of the answer in a row of `table`: `found.case(0).save("case.pdf")`."""
        from imgfp.report import Case

        pair = self.results.pairs.iloc[row]
        return Case(self.results, pair["query_id"], pair["reference_id"])

    def review(self, reviewer: str = "") -> ReviewQueue:
        """The pairs to decide, in a notebook; `decisions.jsonl` of the library keeps each decision. reviewer: blank for
        `IMGFP_REVIEWER` of the environment."""
        from imgfp import widgets

        return widgets.ReviewQueue(self.results, reviewer or os.environ.get("IMGFP_REVIEWER", ""))

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `table` for a spreadsheet, without the regions."""
        store.write_sheet(Path(path), self.table.drop(columns=["query_region", "reference_region"]))

    def to_fiftyone(self, folder: str | os.PathLike[str]) -> None:
        """Write a dataset of FiftyOne, see `exchange.fiftyone`, to a folder that is empty or not there."""
        from imgfp import exchange

        exchange.export(self.results, "fiftyone", Path(folder).absolute())

    def _ipython_display_(self) -> None:
        """In a notebook: the inspector of the pairs."""
        from IPython.display import display

        from imgfp import widgets

        display(widgets.show(widgets.MatchInspector, self.results))


def _made_with(library: store.Library) -> dict[str, Any]:
    """The parameters that the references were made with. Raises StoreError where a part of the library is missing."""
    parts = {
        "images": (library.images, ".parquet"),
        "keypoints": (library.local_features, ".h5"),
        "descriptors": (library.descriptors, ".h5"),
    }
    settings = {}
    for name, (folder, suffix) in parts.items():
        shards = store.shards(folder, suffix)
        if not shards:
            raise store.StoreError(
                f"{store.show(library.root)} is no finished library: it has no {name}; "
                f"imgfp run params/mine.yaml library_dir={store.show(library.root)} makes it"
            )
        settings[name] = store.describe(shards[0])["settings"]
    for branch in ("local", "global"):
        if not library.index(branch).manifest.exists():
            raise store.StoreError(
                f"{store.show(library.root)} is no finished library: it has no {branch} index"
            )
    vectors = settings["descriptors"]
    if "model" not in vectors:
        raise store.StoreError(
            f"{store.show(library.root)}: its vectors come from a file (descriptor_file), so that no other picture can "
            "be described; run notebook 06 with a descriptor_model"
        )
    return {
        "thumbnail_short_side_px": settings["images"]["thumbnail_short_side_px"],
        "descriptor_model": vectors["model"],
        "descriptor_weights": vectors["weights"],
        **{f"sift_{name}": value for name, value in sift_settings(library).items()},
    }


def _manifest(folder: Path, pictures: tuple[Picture, ...]) -> Iterator[tuple[str, str]]:
    """Id and path of each picture; bytes and pixels are written into the folder first."""
    taken: set[str] = set()
    for number, picture in enumerate(pictures):
        if isinstance(picture, (bytes, np.ndarray)):
            path = folder / f"picture-{number:04d}"
            store.write_bytes(path, picture if isinstance(picture, bytes) else encode_png(picture))
        else:
            path = Path(picture).absolute()
        if not path.exists():
            raise store.StoreError(
                f"{store.show(path)} does not exist; name a picture or a folder of pictures"
            )
        for file in map(Path, list_files(path)["path"]) if path.is_dir() else [path]:
            # The contents are part of the id, so that no decision is taken for one on another picture of that name. "a#0"
            # would be the first crop of "a", "a@mirror" a view of it.
            image_id = f"{re.sub('[#@]', '_', file.stem)} {_contents(file)}".strip()
            if image_id in taken:
                image_id = f"{len(taken):04d}-{image_id}"
            taken.add(image_id)
            yield image_id, str(file)


def _contents(path: Path) -> str:
    """Eight characters that tell the bytes of a file; "" for what cannot be read, which is refused later."""
    try:
        return store.sha256_of(path)[:8] if path.is_file() else ""
    except OSError:
        return ""

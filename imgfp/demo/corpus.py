# SPDX-License-Identifier: AGPL-3.0-or-later
"""The demo corpus: photographs that ship with the dependencies, flat drawings, painted distractors, edited queries.

Everything is generated from one seed; nothing is downloaded and no photograph is part of this package.
Images are (H,W,3) uint8 RGB.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from imgfp import decoding, images, store
from imgfp.demo import painting
from imgfp.demo.painting.flat import FLAT
from imgfp.edits import families, record

#: Increased when the same seed gives another corpus, so that an older corpus is generated again.
VERSION = 2
#: Photographs by id: the package that ships it, path in the package, content and author or licence.
PHOTOGRAPHS: dict[str, tuple[str, str, str]] = {
    "astronaut": ("skimage", "data/astronaut.png", "Eileen Collins; NASA, public domain"),
    "brick": ("skimage", "data/brick.png", "brick wall; CC0Textures, CC0"),
    "bus": ("ultralytics", "assets/bus.jpg", "bus and people in Madrid; AGPL-3.0 assets"),
    "camera": ("skimage", "data/camera.png", "photographer; Lav Varshney, CC0"),
    "cell": ("skimage", "data/cell.png", "a cell under the microscope; CC0"),
    "chelsea": ("skimage", "data/chelsea.png", "a cat; Stefan van der Walt, CC0"),
    "china": ("sklearn", "datasets/images/china.jpg", "a pavilion; danielbuechele, CC BY 2.0"),
    "coffee": ("skimage", "data/coffee.png", "espresso; Rachel Michetti, CC0"),
    "coins": ("skimage", "data/coins.png", "Greek coins from Pompeii; Brooklyn Museum"),
    "flower": ("sklearn", "datasets/images/flower.jpg", "a dahlia; vultilion, CC BY 2.0"),
    "grass": ("skimage", "data/grass.png", "a lawn; CC0"),
    "gravel": ("skimage", "data/gravel.png", "gravel; CC0Textures, CC0"),
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", "Grace Hopper; US Navy"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg", "eXtreme Deep Field; NASA, public domain"),
    "moon": ("skimage", "data/moon.png", "the surface of the moon"),
    "motorcycle": ("skimage", "data/motorcycle_left.png", "left of a stereo pair; Middlebury 2014"),
    "page": ("skimage", "data/page.png", "a printed page, photographed"),
    "retina": ("skimage", "data/retina.jpg", "fundus of an eye; Mikael Haggstrom, CC0"),
    "rocket": ("skimage", "data/rocket.jpg", "Falcon 9 on its pad; SpaceX, public domain"),
    "stereo": ("skimage", "data/motorcycle_right.png", "right of the stereo pair; Middlebury 2014"),
    "text": ("skimage", "data/text.png", "handwriting, photographed; public domain"),
    "tissue": ("skimage", "data/ihc.png", "stained colon tissue under the microscope"),
    "zidane": ("ultralytics", "assets/zidane.jpg", "two men by a football field; AGPL-3.0 assets"),
}
#: Photographs that are never references: queries made from them have no original.
HELD_OUT = ("cell", "stereo", "zidane")
#: Held-out photograph -> reference that shows the same scene: a hard negative.
SAME_SCENE = {"stereo": "motorcycle"}

_SHORT_SIDE = 400  # px; photographs are shrunk to it, painted pictures vary around it
_FOLDERS = ("references", "queries", "masks")


@cache
def _folder_of(package: str) -> Path | None:
    """Where a package is installed; None where it is not."""
    # It is only located: importing some of them is slow or has side effects.
    spec = importlib.util.find_spec(package)
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


def available() -> list[str]:
    """Ids of the photographs whose package is installed: all, or without ultralytics (extra `train`) all but two."""
    return [name for name, (package, *_) in PHOTOGRAPHS.items() if _folder_of(package)]


@cache
def _photograph(photograph_id: str) -> np.ndarray:
    package, inside, _ = PHOTOGRAPHS[photograph_id]
    folder = _folder_of(package)
    assert folder is not None, photograph_id
    return images.resize_short_side(decoding.read_image(folder / inside), _SHORT_SIDE)


def photographs() -> dict[str, np.ndarray]:
    """The photographs that are `available`, by id, short side at most 400 px. Raises ImageError for a missing file."""
    return {photograph_id: _photograph(photograph_id).copy() for photograph_id in available()}


def painted(seed: int, number: int) -> tuple[str, np.ndarray]:
    """Name and image of painted picture `number` of a seed; the kinds alternate, sizes vary."""
    rng = np.random.default_rng([seed, 1, number])
    kinds = list(painting.KINDS)
    kind = kinds[number % len(kinds)]
    short, ratio = rng.integers(320, 481), rng.uniform(1, 1.5)
    size = (short, round(short * ratio)) if rng.random() < 0.7 else (round(short * ratio), short)
    name = f"{kind}_{number // len(kinds):02d}"
    return name, painting.procedural(rng, kind, (int(size[0]), int(size[1])))


def drawing(seed: int, kind: str, contents: int) -> np.ndarray:
    """A flat drawing of a seed: one template for each kind of FLAT; `contents` 0 is the reference, others fill its
    template otherwise and are no copies of it."""
    template, own = (
        np.random.default_rng([seed, 4, list(FLAT).index(kind), n]) for n in (0, contents + 1)
    )
    return FLAT[kind](_SHORT_SIDE, _SHORT_SIDE * 4 // 3, template, own)


def references(seed: int, n_painted: int) -> Iterator[tuple[str, np.ndarray]]:
    """Ids and images of all references: the photographs that are not held out, a flat drawing of each kind, then
    painted ones."""
    for photograph_id in available():
        if photograph_id not in HELD_OUT:
            yield photograph_id, _photograph(photograph_id)
    for kind in FLAT:
        yield kind, drawing(seed, kind, 0)
    for number in range(n_painted):
        yield painted(seed, number)


@dataclass(frozen=True)
class Query:
    """A generated query: its id, its reference ("" for none), the reference that shows the same scene but
    is not its original ("" for none), and the edited image with its geometry."""

    query_id: str
    reference_id: str
    hard_negative_of: str
    edited: record.Edited


def queries(seed: int, n_positive: int, n_negative: int, n_painted: int) -> Iterator[Query]:
    """Queries in shuffled order: positives from all references that are photographs or drawings, and negatives.

    Each has one to four edits; the families alternate, so that all of them occur. Every eighth
    positive is a hard one: mirrored and pasted at a small size, among other edits. Images that queries
    are pasted on are never references.
    """
    rng = np.random.default_rng([seed, 2])
    photographs = available()
    originals = [name for name in photographs if name not in HELD_OUT]
    wanted_in_turn = list(families.FAMILIES)
    hosts = [painted(seed, n_painted + i)[1] for i in range(24)]
    hosts += [_photograph(name) for name in ("zidane",) if name in photographs]
    order = rng.permutation(n_positive + n_negative)
    for place, number in enumerate(order):
        rng = np.random.default_rng([seed, 3, int(number)])
        query_id, same = f"Q{place:03d}", ""
        if number < n_positive and number % 11 == 10:
            reference_id = list(FLAT)[number // 11 % len(FLAT)]
            source = drawing(seed, reference_id, 0)
        elif number < n_positive:
            reference_id = originals[number % len(originals)]
            source = _photograph(reference_id)
        else:
            reference_id = ""
            source, same = _without_reference(
                seed, int(number) - n_positive, n_painted + len(hosts)
            )
        others = [host for host in hosts if host is not source]
        wanted, strength = [wanted_in_turn[number % len(wanted_in_turn)]], (0.1, 0.8)
        if (number + number // len(originals)) % 8 == 7:  # a different photograph each time
            wanted, strength = ["mirror", "paste"], (0.5, 0.9)
        names = families.draw(int(rng.integers(1, 5)), rng, wanted)
        yield Query(query_id, reference_id, same, _visible(source, names, rng, others, strength))


def _without_reference(seed: int, number: int, first: int) -> tuple[np.ndarray, str]:
    """The source of a negative query (of five, one a photograph and one a drawing with other contents than a
    reference's), and the reference of the same scene or template."""
    if number % 5 == 0:
        held_out = [name for name in available() if name in HELD_OUT]
        name = held_out[number // 5 % len(held_out)]
        return _photograph(name), SAME_SCENE.get(name, "")
    if number % 5 == 1:
        kind = list(FLAT)[number // 5 % len(FLAT)]
        return drawing(seed, kind, 1 + number // 5), kind
    return painted(seed, first + number)[1], ""


def _visible(
    source: np.ndarray, names: list[str], rng: np.random.Generator, others: list, strength: tuple
) -> record.Edited:
    """The edited image; edits are drawn again, up to 20 times, while the source is hardly visible."""
    for _ in range(20):
        edited = families.apply(source, names, rng, others, strength)
        if edited.is_visible:
            break
    return edited


def write_demo_corpus(
    folder: Path,
    seed: int = 0,
    n_painted: int = 300,
    n_positive: int = 100,
    n_negative: int = 50,
    on_picture: Callable[[], object] = int,
) -> bool:
    """Write references/, queries/, masks/, truth.csv and meta.csv into a folder.

    Returns False if the folder holds the same corpus already. meta.csv: query_id, reference_id, ops and
    strengths joined by `+`, strength (their mean), homography (9 numbers, reference pixel -> query
    pixel, row by row), x0..y1 (box of the pasted image, as shares of the query), hard_negative_of. A
    mask is white where the query shows its reference. `on_picture` is called after each image. Raises
    StoreError for a folder that contains other files.
    """
    wanted = {
        "version": VERSION, "seed": seed, "n_painted": n_painted, "n_positive": n_positive,
        "n_negative": n_negative, "edits": list(families.FAMILIES), "photographs": available(),
    }  # fmt: skip
    if _is_whole(folder, wanted):
        return False
    with store.lock(folder):
        _clear(folder)
        sizes: dict[str, int] = {}

        def write(name: str, data: bytes) -> None:
            store.write_bytes(folder / name, data)
            sizes[name] = len(data)

        for image_id, image in references(seed, n_painted):
            write(f"references/{image_id}.jpg", images.encode_jpeg(image, 90))
            on_picture()
        rows = []
        for query in queries(seed, n_positive, n_negative, n_painted):
            write(f"queries/{query.query_id}.jpg", images.encode_jpeg(query.edited.image, 90))
            if query.reference_id:
                write(f"masks/{query.query_id}.png", _encode_mask(query.edited.mask))
            rows.append(_row(query))
            on_picture()
        meta = pd.DataFrame(rows)
        for name, table in (("truth.csv", meta[["query_id", "reference_id"]]), ("meta.csv", meta)):
            write(name, table.to_csv(index=False, lineterminator="\n").encode())
        store.write_bytes(folder / "corpus.json", json.dumps({**wanted, "files": sizes}).encode())
    return True


def read_demo_corpus(folder: Path) -> pd.DataFrame:
    """meta.csv of a corpus; text columns have "" for blanks; `homography`: (3,3) array or None."""
    meta = pd.read_csv(folder / "meta.csv", dtype={"homography": str}, keep_default_na=False)
    for name in ("x0", "y0", "x1", "y1"):
        meta[name] = pd.to_numeric(meta[name])
    matrices = [
        np.array(text.split(), float).reshape(3, 3) if text else None for text in meta["homography"]
    ]
    return meta.assign(homography=pd.Series(matrices, index=meta.index, dtype=object))


def _row(query: Query) -> dict:
    edited = query.edited
    box = edited.box if query.reference_id else None
    height, width = edited.mask.shape
    corners = [""] * 4 if box is None else np.round(box / (width, height, width, height), 6)
    numbers = " ".join(f"{v:.9g}" for v in edited.homography.ravel() / edited.homography[2, 2])
    degrees = [strength for _, strength in edited.ops]
    return {
        "query_id": query.query_id,
        "reference_id": query.reference_id,
        "ops": "+".join(name for name, _ in edited.ops),
        "strengths": "+".join(f"{degree:.2f}" for degree in degrees),
        "strength": round(float(np.mean(degrees)), 4),
        "homography": numbers if query.reference_id else "",
        **dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True)),
        "hard_negative_of": query.hard_negative_of,
    }


def _encode_mask(mask: np.ndarray) -> bytes:
    """A mask as a black and white PNG of one bit per pixel."""
    out = io.BytesIO()
    Image.fromarray(mask).save(out, "PNG")
    return out.getvalue()


def _is_whole(folder: Path, wanted: dict) -> bool:
    try:
        found = json.loads((folder / "corpus.json").read_bytes())
        files = found.pop("files")
        return found == wanted and all(
            (folder / name).stat().st_size == size for name, size in files.items()
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _clear(folder: Path) -> None:
    """Delete an older or unfinished corpus and mark the folder as a corpus."""
    marker = folder / "corpus.json"
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if inside and not marker.exists():
        raise store.StoreError(
            f"{store.show(folder)} contains files that are not a demo corpus; give an empty folder"
        )
    store.write_bytes(marker, b"{}")
    for name in _FOLDERS:
        if (folder / name).is_dir():
            for path in (folder / name).iterdir():
                path.unlink()

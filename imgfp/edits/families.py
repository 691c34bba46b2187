# SPDX-License-Identifier: AGPL-3.0-or-later
"""All families of edits: seeded, with exact geometry, for training, calibration and the demo corpus.

    edited = apply(image, None, rng, others)          # one to four families, drawn at random
    edited = apply(image, ["mirror", "paste"], rng, others, strength=0.6)
    edited = FAMILIES["crop"](image, 0.5, rng)         # one family

Images are (H,W,3) uint8 RGB. Every random choice comes from the generator given. Strength is 0..1:
0 nearly invisible, 1 the hardest of the ISC2021 challenge (families without degrees ignore it).

Homographies map pixel centres, boxes and quads are corners: see `imgfp.edits.record`. The mask is False
where new pixels were filled with the reflected image: they show the source, but not at the position of
the homography.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from imgfp.edits import compositing, geometric, overlays, photometric
from imgfp.edits.record import Edited, start

Edit = Callable[[Edited, float, np.random.Generator, Sequence], Edited]


@dataclass(frozen=True)
class Family:
    """One family of edits: call it with an image, a strength, a generator and other images."""

    name: str
    edit: Edit
    weight: float  # relative frequency with which `apply` draws it
    span: tuple[float, float]  # a number is drawn from it; a chain is sorted by these numbers

    def __call__(
        self,
        image: np.ndarray | Edited,
        strength: float,
        rng: np.random.Generator,
        others: Sequence[np.ndarray] = (),
    ) -> Edited:
        """The edited image, the family appended to its ops. Raises ValueError for a strength outside
        0..1."""
        if not 0 <= strength <= 1:
            raise ValueError(f"{self.name}: strength must be within 0..1, got {strength}")
        edited = image if isinstance(image, Edited) else start(image)
        result = self.edit(edited, float(strength), rng, others)
        return replace(result, ops=[*edited.ops, (self.name, float(strength))])


def in_place(edit: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]) -> Edit:
    """An edit of records from a photometric edit of pixels, which moves none of them."""

    def edit_record(
        edited: Edited, strength: float, rng: np.random.Generator, others: Sequence
    ) -> Edited:
        return replace(edited, image=edit(edited.image, strength, rng))

    edit_record.__doc__ = edit.__doc__
    return edit_record


#: Every family by its name.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("crop", geometric.crop, 2, (0, 1)),
        Family("rotate", geometric.rotate, 1.5, (0, 2.6)),
        Family("rot90", geometric.rot90, 0.7, (0, 2.6)),
        Family("mirror", geometric.mirror, 1.5, (0, 2.6)),
        Family("flip", geometric.flip, 0.7, (0, 2.6)),
        Family("perspective", geometric.perspective, 1, (0, 2.6)),
        Family("aspect", geometric.aspect, 1, (0, 2.6)),
        Family("lens", geometric.lens, 0.5, (0, 2.6)),
        Family("wave", geometric.wave, 0.5, (0, 2.6)),
        Family("colour", in_place(photometric.colour), 2, (1, 4)),
        Family("grey", in_place(photometric.grey), 1, (1, 4)),
        Family("sepia", in_place(photometric.sepia), 0.5, (1, 4)),
        Family("solarise", in_place(photometric.solarise), 0.6, (1, 4)),
        Family("posterise", in_place(photometric.posterise), 0.6, (1, 4)),
        Family("invert", in_place(photometric.invert), 0.4, (1, 4)),
        Family("channels", in_place(photometric.channels), 0.4, (1, 4)),
        Family("gamma", in_place(photometric.gamma), 0.6, (1, 4)),
        Family("vignette", in_place(photometric.vignette), 0.4, (1, 4)),
        Family("sharpen", in_place(photometric.sharpen), 0.8, (1, 4)),
        Family("sketch", in_place(photometric.sketch), 0.5, (1.5, 4.5)),
        Family("halftone", in_place(photometric.halftone), 0.4, (1.5, 4.5)),
        Family("blur", in_place(photometric.blur), 1.2, (1.5, 4.5)),
        Family("pixelise", in_place(photometric.pixelise), 1, (1.5, 4.5)),
        Family("lowres", in_place(photometric.lowres), 0.7, (1.5, 4.5)),
        Family("noise", in_place(photometric.noise), 1.2, (1.5, 4.5)),
        Family("padding", compositing.padding, 1, (2, 3)),
        Family("border", compositing.border, 0.7, (2, 3)),
        Family("meme", compositing.meme, 1.5, (2, 3)),
        Family("paste", compositing.paste, 4, (2, 3)),
        Family("screenshot", compositing.screenshot, 2, (2, 3)),
        Family("collage", compositing.collage, 1.5, (2, 3)),
        Family("text", overlays.text, 2, (2.5, 4)),
        Family("stickers", overlays.stickers, 2, (2.5, 4)),
        Family("stripes", overlays.stripes, 1, (2.5, 4)),
        Family("cutout", overlays.cutout, 0.6, (2.5, 4)),
        Family("inset", overlays.inset, 0.8, (2.5, 4)),
        Family("blend", overlays.blend, 0.8, (2.5, 4)),
        Family("jpeg", in_place(photometric.jpeg), 1.5, (5, 6)),
    )
}
#: Of these, `apply` draws at most one per chain.
PLACEMENTS = ("paste", "screenshot", "collage")


def apply(
    image: np.ndarray | Edited,
    ops: int | Sequence[str | tuple[str, float]] | None,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
    strength: float | tuple[float, float] = (0.0, 1.0),
) -> Edited:
    """Apply several families to an image, in a realistic order, compression last.

    ops: number of families to draw (None: one to four), or their names in the order to apply them,
    each alone or with its strength. others: images to paste on or to add, none of them the source;
    without any, gradients are used. strength: one for all, or the range to draw each from. Raises
    ValueError for an unknown family.
    """
    if ops is None:
        ops = int(rng.integers(1, 5))
    if isinstance(ops, int):
        ops = draw(ops, rng)
    low, high = strength if isinstance(strength, tuple) else (strength, strength)
    edited = image if isinstance(image, Edited) else start(image)
    for op in ops:
        name, degree = op if isinstance(op, tuple) else (op, float(rng.uniform(low, high)))
        if name not in FAMILIES:
            raise ValueError(f"unknown edit {name!r}; choose from {', '.join(FAMILIES)}")
        edited = FAMILIES[name](edited, degree, rng, others)
    return edited


def draw(count: int, rng: np.random.Generator, wanted: Sequence[str] = ()) -> list[str]:
    """Names of `count` different families in a realistic order, including those `wanted`."""
    names = list(FAMILIES)
    weight = np.array([family.weight for family in FAMILIES.values()])
    drawn: list[str] = []
    while len(drawn) < max(count, len(wanted)) and weight.any():
        if len(drawn) < len(wanted):
            name = wanted[len(drawn)]
        else:
            name = names[rng.choice(len(names), p=weight / weight.sum())]
        taken = PLACEMENTS if name in PLACEMENTS else (name,)
        weight[[names.index(other) for other in taken]] = 0
        drawn.append(name)
    places = [rng.uniform(*FAMILIES[name].span) for name in drawn]
    return [drawn[i] for i in np.argsort(places)]

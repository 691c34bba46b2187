"""Seeded picture edits whose geometry is known exactly: for training, calibration and the demo corpus.

    edited = edits.apply(image, None, rng, others)          # one to four families, drawn
    edited = edits.apply(image, ["mirror", "paste"], rng, others, strength=0.6)
    edited = edits.FAMILIES["crop"](image, 0.5, rng)         # one family

Images are (H,W,3) uint8 RGB. Every random choice comes from the generator given. Strength is 0..1:
0 nearly invisible, 1 the hardest of the ISC2021 challenge (families without degrees ignore it).

Homographies map pixel centres, boxes and quads are corners: see `imgfp.warps`. The mask is False on
room that was filled with the picture's own mirror image: it shows the source, but not where the
homography has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from imgfp import drawing, placing, tones, warps
from imgfp.warps import Edited, start

__all__ = ["FAMILIES", "PLACEMENTS", "Edited", "Family", "apply", "draw", "start"]

Work = Callable[[Edited, float, np.random.Generator, Sequence], Edited]


def text(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """One to eight pieces of text over the picture, up to a quarter of its height tall."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    for _ in range(1 + int(rng.integers(1 + round(7 * strength)))):
        size = max(6, int((0.04 + 0.2 * strength * rng.uniform(0.2, 1)) * height))
        line = drawing.words(rng, int(rng.integers(1, 5)))
        x, y = int(rng.uniform(-0.1, 0.7) * width), int(rng.uniform(0, 0.9) * height)
        turn = float(rng.uniform(-40, 40)) if rng.random() < 0.2 else 0.0
        opacity = 1.0 if rng.random() < 0.7 else float(rng.uniform(0.35, 0.9))
        drawing.write(image, mask, line, x, y, size, drawing.colour(rng), rng, opacity, turn)
    return replace(edited, image=image, mask=mask)


def stickers(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """One to ten emoji-like stamps, up to 60 % of the short side large."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    for _ in range(1 + int(rng.integers(1 + round(9 * strength)))):
        size = (0.08 + 0.52 * strength * rng.uniform(0.2, 1) ** 2) * min(height, width)
        stamp, alpha = drawing.sticker(int(size), rng)
        if rng.random() < 0.2:
            alpha = cv2.convertScaleAbs(alpha, alpha=rng.uniform(0.4, 0.9))
        x = int(rng.uniform(-0.1, 0.9) * width)
        y = int(rng.uniform(-0.1, 0.9) * height)
        drawing.cover(image, mask, stamp, alpha, x, y)
    return replace(edited, image=image, mask=mask)


def stripes(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Parallel bars of one colour at any angle over up to 60 % of the picture, at times see-through."""
    image, mask = edited.image.copy(), edited.mask.copy()
    alpha = drawing.stripes(*mask.shape, 0.05 + 0.55 * strength * rng.uniform(0.6, 1), rng)
    opacity = 1.0 if rng.random() < 0.6 else rng.uniform(0.3, 0.9)
    drawing.cover(image, mask, drawing.colour(rng), cv2.convertScaleAbs(alpha, alpha=opacity), 0, 0)
    return replace(edited, image=image, mask=mask)


def cutout(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """All but an ellipse or a rounded rectangle painted over, at strength 1 with half of the sides."""
    height, width = edited.mask.shape
    y, x = np.mgrid[:height, :width]
    low = rng.uniform(0, 1, 2) * 0.5 * strength * rng.uniform(0.3, 1)
    size = 1 - 0.5 * strength * rng.uniform(0.3, 1, 2)
    middle = low + (1 - low) * size / 2
    roundness = rng.choice([2.0, 2.0, 4.0])  # of a superellipse: 2 is an ellipse
    reach = abs((x / width - middle[0]) * 2 / size[0]) ** roundness
    reach = reach + abs((y / height - middle[1]) * 2 / size[1]) ** roundness
    alpha = np.clip(255 * (reach - 1) * min(height, width) / 8, 0, 255).astype(np.uint8)
    image, mask = edited.image.copy(), edited.mask.copy()
    drawing.cover(image, mask, drawing.colour(rng), alpha, 0, 0)
    return replace(edited, image=image, mask=mask)


def blend(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Another picture over the whole, see-through: 8 % of it at strength 0, half at 1."""
    height, width = edited.mask.shape
    other = cv2.resize(
        placing.host_for(edited, rng, others), (width, height), interpolation=cv2.INTER_LINEAR
    )
    share = 0.08 + 0.42 * strength
    return replace(edited, image=cv2.addWeighted(edited.image, 1 - share, other, share, 0))


def inset(edited: Edited, strength: float, rng: np.random.Generator, others: Sequence) -> Edited:
    """Another picture laid over this one: 15 % of its sides at strength 0, up to 65 % at 1."""
    image, mask = edited.image.copy(), edited.mask.copy()
    height, width = mask.shape
    share = 0.15 + 0.5 * strength * rng.uniform(0.7, 1)
    other = placing.host_for(edited, rng, others)
    scale = share * min(height / other.shape[0], width / other.shape[1])
    size = max(1, round(other.shape[1] * scale)), max(1, round(other.shape[0] * scale))
    other = cv2.resize(other, size, interpolation=cv2.INTER_AREA)
    x, y = int(rng.integers(width - size[0] + 1)), int(rng.integers(height - size[1] + 1))
    image[y : y + size[1], x : x + size[0]] = other
    mask[y : y + size[1], x : x + size[0]] = False
    return replace(edited, image=image, mask=mask)


def _toned(work: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]) -> Work:
    """A family out of an edit that leaves every pixel in its place."""

    def family(
        edited: Edited, strength: float, rng: np.random.Generator, others: Sequence
    ) -> Edited:
        return replace(edited, image=work(edited.image, strength, rng))

    family.__doc__ = work.__doc__
    return family


@dataclass(frozen=True)
class Family:
    """One family of edits: call it with a picture, a strength, a generator and other pictures."""

    name: str
    work: Work
    weight: float  # how often `apply` draws it, against the others
    span: tuple[float, float]  # a moment is drawn from it, and the chain sorted by the moments

    def __call__(
        self,
        image: np.ndarray | Edited,
        strength: float,
        rng: np.random.Generator,
        others: Sequence[np.ndarray] = (),
    ) -> Edited:
        """The edited picture, the op noted. Raises ValueError for a strength outside 0..1."""
        if not 0 <= strength <= 1:
            raise ValueError(f"{self.name}: strength must be within 0..1, got {strength}")
        edited = image if isinstance(image, Edited) else start(image)
        done = self.work(edited, float(strength), rng, others)
        return replace(done, ops=[*edited.ops, (self.name, float(strength))])


#: Every family by its name.
FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("crop", warps.crop, 2, (0, 1)),
        Family("rotate", warps.rotate, 1.5, (0, 2.6)),
        Family("rot90", warps.rot90, 0.7, (0, 2.6)),
        Family("mirror", warps.mirror, 1.5, (0, 2.6)),
        Family("flip", warps.flip, 0.7, (0, 2.6)),
        Family("perspective", warps.perspective, 1, (0, 2.6)),
        Family("aspect", warps.aspect, 1, (0, 2.6)),
        Family("lens", warps.lens, 0.5, (0, 2.6)),
        Family("wave", warps.wave, 0.5, (0, 2.6)),
        Family("colour", _toned(tones.colour), 2, (1, 4)),
        Family("grey", _toned(tones.grey), 1, (1, 4)),
        Family("sepia", _toned(tones.sepia), 0.5, (1, 4)),
        Family("solarise", _toned(tones.solarise), 0.6, (1, 4)),
        Family("posterise", _toned(tones.posterise), 0.6, (1, 4)),
        Family("invert", _toned(tones.invert), 0.4, (1, 4)),
        Family("channels", _toned(tones.channels), 0.4, (1, 4)),
        Family("gamma", _toned(tones.gamma), 0.6, (1, 4)),
        Family("vignette", _toned(tones.vignette), 0.4, (1, 4)),
        Family("sharpen", _toned(tones.sharpen), 0.8, (1, 4)),
        Family("sketch", _toned(tones.sketch), 0.5, (1.5, 4.5)),
        Family("halftone", _toned(tones.halftone), 0.4, (1.5, 4.5)),
        Family("blur", _toned(tones.blur), 1.2, (1.5, 4.5)),
        Family("pixelise", _toned(tones.pixelise), 1, (1.5, 4.5)),
        Family("lowres", _toned(tones.lowres), 0.7, (1.5, 4.5)),
        Family("noise", _toned(tones.noise), 1.2, (1.5, 4.5)),
        Family("padding", placing.padding, 1, (2, 3)),
        Family("border", placing.border, 0.7, (2, 3)),
        Family("meme", placing.meme, 1.5, (2, 3)),
        Family("paste", placing.paste, 4, (2, 3)),
        Family("screenshot", placing.screenshot, 2, (2, 3)),
        Family("collage", placing.collage, 1.5, (2, 3)),
        Family("text", text, 2, (2.5, 4)),
        Family("stickers", stickers, 2, (2.5, 4)),
        Family("stripes", stripes, 1, (2.5, 4)),
        Family("cutout", cutout, 0.6, (2.5, 4)),
        Family("inset", inset, 0.8, (2.5, 4)),
        Family("blend", blend, 0.8, (2.5, 4)),
        Family("jpeg", _toned(tones.jpeg), 1.5, (5, 6)),
    )
}
#: Of these, `apply` draws at most one a chain.
PLACEMENTS = ("paste", "screenshot", "collage")


def apply(
    image: np.ndarray | Edited,
    ops: int | Sequence[str | tuple[str, float]] | None,
    rng: np.random.Generator,
    others: Sequence[np.ndarray] = (),
    strength: float | tuple[float, float] = (0.0, 1.0),
) -> Edited:
    """Edit a picture by several families in a sensible order, compression last.

    ops: how many families to draw (None: one to four), or their names in the order to do them, each
    alone or with its strength. others: pictures to paste on and to put beside, none of them the source;
    gradients where there are none.
    strength: one for all, or the range to draw each from. Raises ValueError for an unknown family.
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
            raise ValueError(f"unknown edit {name!r}; there are {', '.join(FAMILIES)}")
        edited = FAMILIES[name](edited, degree, rng, others)
    return edited


def draw(count: int, rng: np.random.Generator, wanted: Sequence[str] = ()) -> list[str]:
    """Names of `count` different families in a sensible order, those `wanted` among them."""
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
    moments = [rng.uniform(*FAMILIES[name].span) for name in drawn]
    return [drawn[i] for i in np.argsort(moments)]

"""Augmentation for descriptor training: two views of each photograph, determined by step and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from imgfp.descriptors.base import resize_square
from imgfp.edits import families

#: Edits that the descriptor need not be invariant to, because a search describes turned and mirrored
#: views, and the strongest rotation that it is trained on: the views leave at most 45 degrees.
TURNS, ROTATE_UP_TO = ("mirror", "flip", "rot90"), 0.25

#: Families that a network only learns if they are frequent, though their own weights make them rare: the
#: share of chains that contain one of them, mostly strong.
OFTEN: tuple[tuple[float, tuple[str, ...]], ...] = (
    (0.25, ("colour", "invert", "solarise", "solarise", "posterise", "vignette")),
    (0.10, ("sketch",)),
    (0.45, ("paste", "paste", "collage", "screenshot", "meme")),
    (0.35, ("stripes", "stickers", "text", "inset", "blend")),
    (0.45, ("crop", "crop", "perspective", "aspect", "padding", "rotate")),
)


@dataclass(frozen=True)
class Curriculum:
    """The difficulty of each step. It depends on the step alone, so a resumed training has the same views.

    batch_images photographs per step, two views each; the views grow from start_px to end_px and the
    edits from start_strength to full strength over ramp_steps; easy_share of the first views are
    the photograph itself, the others get one mild edit.
    """

    batch_images: int = 40
    start_px: int = 96
    end_px: int = 128
    start_strength: float = 0.3
    ramp_steps: int = 2000
    easy_share: float = 0.5
    seed: int = 0

    def progress(self, step: int) -> float:
        """0 at the start to 1 from ramp_steps on."""
        return min(1.0, step / max(1, self.ramp_steps))

    def side_px(self, step: int) -> int:
        """Side of the views, a multiple of 16 px."""
        side = self.start_px + (self.end_px - self.start_px) * self.progress(step)
        return max(32, round(side / 16) * 16)

    def strength(self, step: int) -> float:
        """Upper end of the edits' strength."""
        return self.start_strength + (1 - self.start_strength) * self.progress(step)

    def max_ops(self, step: int) -> int:
        """Largest number of edits in a chain, without those of `OFTEN`: one at first, three at the end."""
        return 1 + int(2 * self.progress(step))


def epoch_order(groups: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """A random order (n,) int64 in which members of one group (blank: none) stay together.

    Different photographs of one object are then in one batch, as hard negatives.
    """
    units: dict[str | int, list[int]] = {}
    for row, group in enumerate(groups):
        units.setdefault(group or row, []).append(row)
    members = list(units.values())
    return np.concatenate([members[i] for i in rng.permutation(len(members))]).astype(np.int64)


def batch_rows(groups: Sequence[str], step: int, curriculum: Curriculum) -> np.ndarray:
    """Rows (b,) of the photographs of one step; every photograph occurs once per epoch (except the
    rest that does not fill a batch)."""
    size = min(curriculum.batch_images, len(groups))
    per_epoch = len(groups) // size
    rng = np.random.default_rng([curriculum.seed, 1, step // per_epoch])
    start = step % per_epoch * size
    return epoch_order(groups, rng)[start : start + size]


def draw_edits(
    count: int,
    strength: float,
    rng: np.random.Generator,
    turns: bool = False,
    wanted: Sequence[str] = (),
) -> list[tuple[str, float]]:
    """Up to `count` edits, including those `wanted`, each of a strength below `strength`, most of the wanted
    ones near it; without `turns` none that a query view undoes."""
    drawn = [
        (name, float(strength * (rng.uniform() ** (0.5 if name in wanted else 1))))
        for name in families.draw(count, rng, wanted)
    ]
    if turns:
        return drawn
    return [
        (name, min(degree, ROTATE_UP_TO) if name == "rotate" else degree)
        for name, degree in drawn
        if name not in TURNS
    ]


def draw_chain(max_ops: int, strength: float, rng: np.random.Generator) -> list[tuple[str, float]]:
    """The edits of a hard view: one to `max_ops`, and those drawn from `OFTEN`."""
    wanted = [str(rng.choice(names)) for share, names in OFTEN if rng.random() < share]
    return draw_edits(int(rng.integers(1, max_ops + 1)), strength, rng, wanted=wanted)


def two_views(
    photograph: np.ndarray,
    others: Sequence[np.ndarray],
    step: int,
    curriculum: Curriculum,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A mildly and a strongly edited view, each (s,s,3) uint8. others: hosts and parts of collages."""
    side = curriculum.side_px(step)
    if rng.random() < 0.5:  # mirror both, which doubles the number of photographs
        photograph = np.ascontiguousarray(photograph[:, ::-1])
    mild = photograph
    if rng.random() >= curriculum.easy_share:
        mild = families.apply(photograph, draw_edits(1, 0.3, rng), rng, others).image
    chain = draw_chain(curriculum.max_ops(step), curriculum.strength(step), rng)
    hard = families.apply(photograph, chain, rng, others)
    return resize_square(mild, side), resize_square(hard.image, side)


class Steps(Dataset):
    """Step number -> rows (b,) int64 and views (2b,s,s,3) uint8: first the mild ones, then the hard."""

    def __init__(
        self, photographs: Sequence[np.ndarray], groups: Sequence[str], curriculum: Curriculum
    ):
        self.photographs, self.groups, self.curriculum = photographs, groups, curriculum

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        rows = batch_rows(self.groups, step, self.curriculum)
        mild: list[np.ndarray] = []
        hard: list[np.ndarray] = []
        for row in rows:
            rng = np.random.default_rng([self.curriculum.seed, 2, step, row])
            # Not from the same group: a pasted image must not be another true match.
            others = [self._other(row, rng) for _ in range(3)]
            for views, view in zip(
                (mild, hard),
                two_views(self.photographs[row], others, step, self.curriculum, rng),
                strict=True,
            ):
                views.append(view)
        return rows, np.stack(mild + hard)

    def _other(self, row: int, rng: np.random.Generator) -> np.ndarray:
        for _ in range(8):
            other = int(rng.integers(len(self.photographs)))
            if other != row and (not self.groups[row] or self.groups[other] != self.groups[row]):
                return self.photographs[other]
        return np.full((32, 32, 3), 128, np.uint8)  # no other photograph: plain grey


def pairs_of(views: np.ndarray, count: int) -> list[np.ndarray]:
    """The first `count` mild views of a step, then their hard ones."""
    half = len(views) // 2
    return [*views[: min(count, half)], *views[half : half + count]]


def step_loader(steps: Steps, first: int, last: int, workers: int = 1) -> Iterator:
    """Batches of `steps` from `first` up to `last`, generated in `workers` processes (0: in this one).

    OpenCV is restricted to one thread: a worker is forked, and would wait forever for the threads of a pool
    that exists in this process only.
    """
    cv2.setNumThreads(1)
    return iter(
        DataLoader(
            steps,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
    )

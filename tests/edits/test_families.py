# SPDX-License-Identifier: AGPL-3.0-or-later
"""Contracts on every family, exact homographies, chains of several, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from imgfp.edits import compositing, families, geometric, overlays, photometric

EXACT = ["crop", "rotate", "rot90", "mirror", "flip", "perspective", "aspect"]
COMPOSITING = ["padding", "border", "meme", "paste", "screenshot", "collage"]
#: Every family that moves pixels by one homography; lens and wave bend the image.
WITH_HOMOGRAPHY = [
    name
    for name in families.FAMILIES
    if name not in ("lens", "wave") and (hasattr(geometric, name) or hasattr(compositing, name))
]


def test_every_family_is_of_one_module_and_tested_there():
    modules = (geometric, photometric, compositing, overlays)
    for name in families.FAMILIES:
        assert sum(hasattr(module, name) for module in modules) == 1, name


@pytest.mark.parametrize("name", WITH_HOMOGRAPHY)
def test_the_homography_is_where_the_pixels_went(name, ramp, hosts, misses):
    measured = 0
    for seed in range(12):
        edited = families.FAMILIES[name](ramp, seed / 11, np.random.default_rng(seed), hosts)
        distances = misses(edited)
        if not len(distances):
            continue
        measured += 1
        scale = np.sqrt(abs(np.linalg.det(edited.homography[:2, :2])))
        assert np.abs(distances).max() < 1.5 + 1 / scale, seed
        assert np.abs(distances.mean(axis=0)).max() < 0.3, seed
    assert measured >= 8


def test_chains_compose_exactly(ramp, hosts, misses):
    measured = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        names = [
            *rng.choice(EXACT, 2, replace=False),
            rng.choice(COMPOSITING),
            rng.choice(EXACT),
        ]
        edited = families.apply(ramp, [str(n) for n in names], rng, hosts, strength=(0, 0.5))
        distances = misses(edited)
        if len(distances) > 200:
            measured += 1
            assert np.abs(distances.mean(axis=0)).max() < 0.4, (seed, names)
    assert measured > 20


@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_every_family_keeps_the_contract_on_odd_images(name, hosts):
    for shape in ((1, 1), (1, 9), (9, 1), (2, 3), (5, 400), (61, 47)):
        for strength in (0, 0.5, 1):
            for seed in range(3):
                rng = np.random.default_rng(seed)
                image = np.repeat(rng.integers(0, 256, (*shape, 1)), 3, axis=2).astype(np.uint8)
                kept = image.copy()
                edited = families.FAMILIES[name](image, strength, rng, hosts if seed else ())
                assert edited.image.dtype == np.uint8 and edited.image.ndim == 3
                assert edited.mask.dtype == bool and edited.image.shape == (*edited.mask.shape, 3)
                assert edited.image.size and np.isfinite(edited.homography).all()
                assert edited.homography.shape == (3, 3)
                assert edited.ops == [(name, float(strength))]
                assert (image == kept).all(), "the source was modified"


def test_the_same_seed_gives_the_same_image_and_hosts_stay_as_they_are(ramp, hosts):
    kept = [host.copy() for host in hosts]
    for seed in range(20):
        one, two = (
            families.apply(ramp, None, np.random.default_rng(seed), hosts) for _ in range(2)
        )
        assert one.ops == two.ops and (one.image == two.image).all()
        assert (one.homography == two.homography).all() and (one.mask == two.mask).all()
    assert all((a == b).all() for a, b in zip(hosts, kept, strict=True))


def test_drawn_chains_are_realistic(hosts):
    image = np.zeros((24, 30, 3), np.uint8)
    drawn = set()
    for seed in range(300):
        ops = families.apply(
            image, None, np.random.default_rng(seed), hosts, strength=(0.2, 0.4)
        ).ops
        names = [name for name, _ in ops]
        drawn.update(names)
        assert 1 <= len(names) == len(set(names)) <= 4
        assert all(0.2 <= strength <= 0.4 for _, strength in ops)
        assert sum(name in families.PLACEMENTS for name in names) <= 1
        assert "jpeg" not in names or names[-1] == "jpeg"
    assert drawn == set(families.FAMILIES)


def test_wrong_input_is_refused_by_name(ramp, rng):
    with pytest.raises(ValueError, match=r"\(H,W,3\) uint8"):
        families.apply(ramp[..., 0], 1, rng)
    with pytest.raises(ValueError, match="unknown edit 'mirrr'"):
        families.apply(ramp, ["mirrr"], rng)
    with pytest.raises(ValueError, match=r"blur: strength must be within 0\.\.1"):
        families.FAMILIES["blur"](ramp, 1.2, rng)

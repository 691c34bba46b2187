"""Edits: truth by construction, contracts on every family, determinism."""

import numpy as np
import pytest

from imgfp.demo import painting
from imgfp.edits import families, record

GEOMETRIC = ["crop", "rotate", "rot90", "mirror", "flip", "perspective", "aspect"]
BENDING = ["lens", "wave"]
PLACING = ["padding", "border", "meme", "paste", "screenshot", "collage"]
OVERLAYS = ["text", "stickers", "stripes", "inset", "cutout"]


@pytest.fixture(scope="module")
def ramp() -> np.ndarray:
    """(200,240,3): red tells x, green tells y, so that any pixel says where it came from."""
    image = np.full((200, 240, 3), 128, np.uint8)
    image[..., 0] = np.arange(240)
    image[..., 1] = np.arange(200)[:, None]
    return image


@pytest.fixture(scope="module")
def hosts() -> list[np.ndarray]:
    noise = np.random.default_rng(1)
    return [noise.integers(0, 256, (90 + 50 * i, 160, 3)).astype(np.uint8) for i in range(3)]


def _misses(edited: record.Edited) -> np.ndarray:
    """How far (n,2) px the homography is from what the pixels of a ramp say, well inside the mask."""
    import cv2

    inside = cv2.erode(np.pad(edited.mask.astype(np.uint8), 1), np.ones((7, 7)), borderValue=0)
    y, x = np.nonzero(inside[1:-1, 1:-1])
    if (abs(edited.image[y, x, 2].astype(int) - 128) > 1).any():
        return np.empty((0, 2))  # pasted see-through: the pixels tell nothing
    points = np.stack([x, y, np.ones_like(x)], axis=1) @ np.linalg.inv(edited.homography).T
    return edited.image[y, x, :2].astype(float) - points[:, :2] / points[:, 2:]


def test_an_unedited_picture_is_itself(ramp):
    edited = families.apply(ramp, [], np.random.default_rng(0))
    assert (edited.image == ramp).all() and edited.mask.all()
    assert (edited.homography == np.eye(3)).all()
    assert edited.quad is None and edited.box is None and edited.boxes.shape == (0, 4)
    assert edited.ops == []


@pytest.mark.parametrize("name", GEOMETRIC + PLACING)
def test_the_homography_is_where_the_pixels_went(name, ramp, hosts):
    seen = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        edited = families.FAMILIES[name](ramp, seed / 11, rng, hosts)
        misses = _misses(edited)
        if not len(misses):
            continue
        seen += 1
        scale = np.sqrt(abs(np.linalg.det(edited.homography[:2, :2])))
        assert np.abs(misses).max() < 1.5 + 1 / scale, seed
        assert np.abs(misses.mean(axis=0)).max() < 0.3, seed
    assert seen >= 8


@pytest.mark.parametrize("name", BENDING)
def test_the_mask_of_a_bent_picture_is_where_the_homography_still_holds(name, ramp):
    kept = []
    for seed in range(12):
        edited = families.FAMILIES[name](ramp, seed / 11, np.random.default_rng(seed))
        off = np.abs(edited.image[..., :2].astype(float) - ramp[..., :2]).max(axis=2)
        assert off[edited.mask].max(initial=0) <= 1.5, seed
        kept.append(edited.mask.mean())
    assert kept[0] > 0.3 > kept[-1] and max(off.ravel()) > 3


def test_chains_compose_exactly(ramp, hosts):
    seen = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        names = [
            *rng.choice(GEOMETRIC, 2, replace=False),
            rng.choice(PLACING),
            rng.choice(GEOMETRIC),
        ]
        edited = families.apply(ramp, [str(n) for n in names], rng, hosts, strength=(0, 0.5))
        misses = _misses(edited)
        if len(misses) > 200:
            seen += 1
            assert np.abs(misses.mean(axis=0)).max() < 0.4, (seed, names)
    assert seen > 20


@pytest.mark.parametrize("name", PLACING)
def test_the_box_is_exactly_the_pasted_picture(name, ramp, hosts):
    boxed = 0
    for seed in range(15):
        edited = families.FAMILIES[name](ramp, seed / 14, np.random.default_rng(seed), hosts)
        assert edited.quad is not None
        if edited.box is None:  # pasted at an angle
            assert name == "paste"
            continue
        boxed += 1
        y, x = np.nonzero(edited.mask)
        assert edited.box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert edited.box.dtype == np.float32
    assert boxed >= 10


def test_a_box_follows_upright_edits_and_goes_when_turned(ramp, hosts):
    rng = np.random.default_rng(3)
    pasted = families.FAMILIES["padding"](ramp, 0.8, rng)
    mirrored = families.FAMILIES["mirror"](pasted, 0, rng)
    width = pasted.image.shape[1]
    assert mirrored.box[[0, 2]].tolist() == [width - pasted.box[2], width - pasted.box[0]]
    turned = families.FAMILIES["rotate"](pasted, 0.3, rng)
    assert turned.box is None and turned.quad.shape == (4, 2)
    assert (turned.boxes[0, 2:] > turned.boxes[0, :2]).all()


def test_a_collage_tells_of_every_cell(ramp, hosts):
    for seed in range(10):
        edited = families.FAMILIES["collage"](ramp, 1.0, np.random.default_rng(seed), hosts)
        boxes = edited.boxes
        assert 2 <= len(boxes) <= 4
        assert (boxes[0] == edited.box).all()
        area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum()
        assert area <= edited.mask.size  # cells never overlap
        assert area >= 0.6 * edited.mask.size


def test_mirrors_have_a_negative_determinant(ramp, rng):
    for name in ("mirror", "flip"):
        assert np.linalg.det(families.FAMILIES[name](ramp, 0.5, rng).homography) < 0
    assert np.linalg.det(families.FAMILIES["rot90"](ramp, 0.5, rng).homography) > 0


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_mask_loses_what_an_overlay_covers(name, hosts):
    plain = np.full((120, 150, 3), (31, 97, 143), np.uint8)
    covered = 0
    for seed in range(12):
        edited = families.FAMILIES[name](plain, 0.9, np.random.default_rng(seed), hosts)
        untouched = (edited.image == plain).all(axis=2)
        assert not (untouched & ~edited.mask).any()
        far = np.abs(edited.image.astype(int) - plain).max(axis=2) > 128
        assert far[edited.mask].mean() < 0.01  # only where see-through layers add up
        covered += (~edited.mask).sum()
    assert covered > 1000


@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_every_family_keeps_the_contract_on_odd_pictures(name, hosts):
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
                assert (image == kept).all(), "the source was painted on"


@pytest.mark.parametrize("name", list(families.FAMILIES))
def test_strength_zero_is_mild_and_one_is_not(name, hosts):
    picture = painting.procedural(np.random.default_rng(0), "leaves", (300, 400))
    moving = [*GEOMETRIC, *BENDING, *PLACING, *OVERLAYS, "blend"]
    if name not in moving:  # those that keep pixels in place
        change = [
            np.mean(
                [
                    np.abs(
                        families.FAMILIES[name](picture, s, np.random.default_rng(i)).image.astype(
                            int
                        )
                        - picture
                    ).mean()
                    for i in range(4)
                ]
            )
            for s in (0, 1)
        ]
        assert change[0] < 5 < change[1]


def test_the_same_seed_gives_the_same_picture_and_hosts_stay_as_they_are(ramp, hosts):
    kept = [host.copy() for host in hosts]
    for seed in range(20):
        one, two = (
            families.apply(ramp, None, np.random.default_rng(seed), hosts) for _ in range(2)
        )
        assert one.ops == two.ops and (one.image == two.image).all()
        assert (one.homography == two.homography).all() and (one.mask == two.mask).all()
    assert all((a == b).all() for a, b in zip(hosts, kept, strict=True))


def test_drawn_chains_are_sensible(hosts):
    image = np.zeros((24, 30, 3), np.uint8)
    seen = set()
    for seed in range(300):
        ops = families.apply(
            image, None, np.random.default_rng(seed), hosts, strength=(0.2, 0.4)
        ).ops
        names = [name for name, _ in ops]
        seen.update(names)
        assert 1 <= len(names) == len(set(names)) <= 4
        assert all(0.2 <= strength <= 0.4 for _, strength in ops)
        assert sum(name in families.PLACEMENTS for name in names) <= 1
        assert "jpeg" not in names or names[-1] == "jpeg"
    assert seen == set(families.FAMILIES)


def test_wrong_input_is_refused_by_name(ramp, rng):
    with pytest.raises(ValueError, match=r"\(H,W,3\) uint8"):
        families.apply(ramp[..., 0], 1, rng)
    with pytest.raises(ValueError, match="uint8"):
        record.start(ramp.astype(np.float32))
    with pytest.raises(ValueError, match="unknown edit 'mirrr'"):
        families.apply(ramp, ["mirrr"], rng)
    with pytest.raises(ValueError, match=r"blur: strength must be within 0\.\.1"):
        families.FAMILIES["blur"](ramp, 1.2, rng)

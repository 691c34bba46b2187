import os

import numpy as np
import pytest

from imgfp.descriptors import base, views
from imgfp.descriptors.base import ModelError
from imgfp.descriptors.gist import GistGrid
from imgfp.descriptors.registry import load_model
from imgfp.descriptors.views import query_views
from imgfp.search.normalisation import background_similarity, best_over_views, normalise_scores


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    small = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(7)]
    return [np.repeat(np.repeat(s, 12 + i, 0), 15, 1) for i, s in enumerate(small)]


@pytest.fixture(scope="module")
def grid():
    return load_model("gist-grid")


def test_grid_of_no_images_is_empty_with_the_right_width(grid):
    assert grid.embed([]).shape == (0, grid.dim)
    assert grid.embed(iter([])).dtype == np.float32


def test_grid_gives_unit_vectors_for_any_image(grid, pictures):
    odd = [np.zeros((1, 1, 3), np.uint8), np.full((3, 900, 3), 200, np.uint8)]
    vectors = grid.embed([*pictures, *odd])
    assert vectors.shape == (9, grid.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_grid_does_not_depend_on_batches_or_order(grid, pictures):
    whole = grid.embed(pictures)
    np.testing.assert_allclose(grid.embed(iter(pictures), batch_size=2), whole, atol=1e-6)
    np.testing.assert_allclose(grid.embed(pictures[::-1])[::-1], whole, atol=1e-6)


def test_grid_knows_a_darker_copy_and_tells_a_mirrored_one(grid, pictures):
    first = pictures[0]
    seen = grid.embed([first, (first * 0.7).astype(np.uint8), first[:, ::-1], pictures[1]])
    dark, mirrored, other = seen[1:] @ seen[0]
    assert dark > 0.95
    assert dark > mirrored
    assert dark > other


def test_a_wrong_image_is_named(grid, pictures):
    with pytest.raises(ValueError, match=r"image 1: expected an \(H,W,3\) uint8 image"):
        grid.embed([pictures[0], pictures[0][..., 0]])
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        grid.embed(pictures, batch_size=0)


def test_an_error_while_decoding_reaches_the_caller(grid, pictures):
    def decode():
        yield pictures[0]
        raise OSError("damaged.jpg")

    with pytest.raises(OSError, match=r"damaged\.jpg"):
        grid.embed(decode(), batch_size=1)


def test_loading_names_what_is_wrong():
    with pytest.raises(ModelError, match="unknown descriptor model 'gits'"):
        load_model("gits")
    with pytest.raises(ModelError, match="has no weights"):
        load_model("gist-grid", "x.pth")


def test_importing_the_module_leaves_torch_alone():
    import subprocess
    import sys

    code = "import sys, imgfp.descriptors.registry as d; d.load_model('gist-grid'); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def test_unit_refuses_a_vector_without_direction():
    with pytest.raises(ValueError, match="row 1 of 2"):
        base.l2_normalise(np.array([[1.0, 0], [0, 0]]))
    with pytest.raises(ValueError, match="row 0 of 1"):
        base.l2_normalise(np.array([[np.nan, 1]]))


def test_squeeze_ignores_the_aspect():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, 20:] = 255
    for how in ("area", "bilinear", "bicubic"):
        small = base.resize_square(image, 8, how)
        assert small.shape == (8, 8, 3)
        assert small[:, :3].max() == 0
        assert small[:, 5:].min() == 255


# Views


def test_views_are_what_their_names_say():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    whole, mirror, turned = query_views(image, ["whole", "mirror", "rot90"])
    np.testing.assert_array_equal(whole, image)
    np.testing.assert_array_equal(mirror[:, 0], image[:, 2])
    assert turned.shape == (3, 2, 3)
    np.testing.assert_array_equal(turned[0, 0], image[0, 2])  # the top right comes to the top left
    assert all(view.flags.c_contiguous for view in (whole, mirror, turned))


def test_the_eight_turns_and_mirrors_all_differ():
    image = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    names = [name for name in views.VIEWS if "centre" not in name]
    seen = query_views(image, names)
    assert len(names) == 8
    assert len({view.tobytes() for view in seen}) == 8


def test_centre_crops_never_vanish():
    assert query_views(np.zeros((1, 1, 3), np.uint8), ["centre50"])[0].shape == (1, 1, 3)
    big = np.zeros((100, 50, 3), np.uint8)
    assert query_views(big, ["centre70"])[0].shape == (70, 35, 3)


def test_unknown_or_no_views_are_errors():
    with pytest.raises(ValueError, match="unknown query views \\['mirrored'\\]"):
        query_views(np.zeros((2, 2, 3), np.uint8), ["mirrored"])
    with pytest.raises(ValueError, match="choose from whole"):
        query_views(np.zeros((2, 2, 3), np.uint8), [])


def test_the_best_view_of_each_reference_counts():
    scores = np.array([[0.5, 0.4], [0.9, 0.5], [0.1, 0.0], [0.3, 0.2]], np.float32)
    ids = np.array([[7, 8], [8, 7], [1, -1], [2, 1]])
    best, found, view_rows = best_over_views(scores, ids, n_views=2, top_k=3)
    np.testing.assert_array_equal(found, [[8, 7, -1], [2, 1, -1]])
    np.testing.assert_array_equal(view_rows, [[1, 0, -1], [1, 1, -1]])
    np.testing.assert_allclose(best, [[0.9, 0.5, -np.inf], [0.3, 0.2, -np.inf]])


def test_no_queries_have_no_answers():
    best, found, _ = best_over_views(np.empty((0, 4)), np.empty((0, 4), np.int64), 2, 5)
    assert best.shape == found.shape == (0, 5)


def test_answers_that_do_not_divide_into_views_are_an_error():
    with pytest.raises(ValueError, match="3 rows of answers do not divide into 2 views"):
        best_over_views(np.zeros((3, 1)), np.zeros((3, 1), np.int64), 2, 1)


# Normalised scores


def test_a_query_that_resembles_everything_falls_behind():
    background = np.eye(4, dtype=np.float32)[:3]
    hub, clear = np.array([0.8, 0.6, 0, 0]), np.array([0.0, 0, 0, 1])
    means = background_similarity(np.stack([hub, clear]).astype(np.float32), background, 2)
    np.testing.assert_allclose(means, [0.7, 0.0], atol=1e-6)
    scores = normalise_scores(np.array([[0.75, 0.1], [0.7, 0.2]]), means)
    assert scores[1, 0] > scores[0, 0]
    np.testing.assert_allclose(scores[0], [0.05, -0.6], atol=1e-6)


def test_the_copy_itself_is_skipped_where_the_library_is_the_background():
    library = np.eye(3, dtype=np.float32)
    query = np.array([[1.0, 0, 0]], np.float32)
    assert background_similarity(query, library, 1) == 1
    assert background_similarity(query, library, 1, skip=1) == 0


def test_a_background_that_is_too_small_is_an_error():
    with pytest.raises(ValueError, match="from a background of 2 vectors"):
        background_similarity(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 2, skip=1)
    empty = background_similarity(np.empty((0, 2), np.float32), np.eye(2, dtype=np.float32), 1)
    assert empty.shape == (0,)


def test_the_stand_in_finds_edited_copies(shared):
    import pandas as pd

    from imgfp.images import read_image

    dev = shared / "data" / "dev"
    truth = pd.read_csv(dev / "ground_truth.csv", dtype=str).dropna().head(25)
    meta = pd.read_csv(dev / "meta.csv", dtype=str).set_index("query_id")
    easy = [
        row for row in truth.itertuples() if meta.ops[row.query_id] in ("blur", "jpeg", "noise")
    ]
    others = sorted((dev / "refs").glob("*.jpg"))[:40]
    grid = GistGrid()
    library = grid.embed(read_image(path) for path in others)
    for row in easy[:3]:
        query, true = grid.embed(
            read_image(next(dev.glob(pattern)))
            for pattern in (f"queries/{row.query_id}.*", f"refs/{row.reference_id}.*")
        )
        assert query @ true > np.delete(library @ query, [
            i for i, path in enumerate(others) if path.stem == row.reference_id
        ]).max()  # fmt: skip


def test_pathsep_joins_two_weight_files():
    with pytest.raises(ModelError, match=r"no-such-a\.pth does not exist"):
        load_model("esvit-swin-b", os.pathsep.join(["no-such-a.pth", "no-such-b.pth"]))

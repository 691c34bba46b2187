# SPDX-License-Identifier: AGPL-3.0-or-later
from __future__ import annotations

import numpy as np
import pytest

from imgfp.search.voting import Votes, accept_seed, one_member_of_each_group, vote


def hits(*rows):
    """(q,k) image rows and squared distances from rows of (image, distance) pairs."""
    array = np.array(rows, float).reshape(len(rows), -1, 2)
    return array[..., 0].astype(np.int64), array[..., 1].astype(np.float32)


def counts(found):
    return dict(zip(found.reference_row.tolist(), found.votes.tolist(), strict=True))


def votes_table(*rows):
    return Votes(*np.array(rows).T)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 2)])
def test_no_hits_no_votes(shape):
    found = vote(np.full(shape, -1), np.full(shape, np.inf, np.float32))
    assert not len(found.reference_row) and not accept_seed(found)


def test_every_hit_counts_and_order_is_fixed():
    table = vote(*hits([(5, 10)], [(2, 30)], [(5, 20)], [(9, 1)], [(7, 30)]))
    assert table.reference_row.tolist() == [5, 9, 2, 7]
    assert table.votes.tolist() == [2, 1, 1, 1]
    assert table.mean_squared_distance.tolist() == [15, 1, 30, 30]


def test_a_keypoint_votes_once_for_a_picture_by_its_nearest_hit():
    table = vote(*hits([(3, 10), (3, 50), (4, 60)]))
    assert counts(table) == {3: 1, 4: 1}
    assert table.mean_squared_distance.tolist() == [10, 60]


def test_misses_do_not_vote():
    assert counts(vote(*hits([(3, 10), (-1, np.inf)], [(-1, np.inf), (-1, np.inf)]))) == {3: 1}


def test_ratio_silences_keypoints_with_many_equals():
    found = hits([(1, 10), (2, 14), (3, 16)], [(1, 10), (2, 11), (3, 14)])
    assert counts(vote(*found, ratio=1.5)) == {1: 1}
    # Strictly more than the ratio, and a last neighbour that does not exist is infinitely far.
    assert counts(vote(*found, ratio=1.4)) == {1: 1}
    assert counts(vote(*hits([(1, 10), (2, 14), (-1, np.inf)]), ratio=9.0)) == {1: 1, 2: 1}
    assert counts(vote(*found)) == {1: 2, 2: 2, 3: 2}


def test_far_hits_do_not_vote():
    found = hits([(1, 7999)], [(1, 8000)])
    assert counts(vote(*found, max_squared_distance=8000)) == {1: 1}
    assert counts(vote(*found)) == {1: 2}


def test_a_reference_keypoint_hears_its_nearest_voter():
    found = hits([(1, 30)], [(1, 20)], [(1, 25)], [(1, 5)])
    table = vote(*found, hit_ids=np.array([[40], [40], [40], [41]]))
    assert counts(table) == {1: 2}
    assert table.mean_squared_distance.tolist() == [12.5]


def test_a_place_votes_once_a_picture():
    found = hits([(1, 30)], [(1, 20)], [(2, 25)], [(1, 5)])
    table = vote(*found, cells=np.array([0, 0, 0, 1]))
    assert counts(table) == {1: 2, 2: 1}
    assert table.mean_squared_distance.tolist() == [12.5, 25]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(2, 1\) and \(3, 1\)"):
        vote(np.zeros((2, 1), int), np.zeros((3, 1)))


@pytest.mark.parametrize(
    ("rows", "accepted"),
    [
        ([(1, 4, 7000.0), (2, 3, 1.0)], True),
        ([(1, 3, 7000.0), (2, 2, 1.0)], False),  # not more than 3
        ([(1, 9, 7000.0), (2, 9, 7500.0)], False),  # not more than the runner-up
        ([(1, 9, 8000.0), (2, 2, 1.0)], False),  # not under 8000
        ([(1, 6, 7999.0)], True),
        ([(1, 5, 7999.0)], False),  # alone it needs more than 5
        ([(1, 6, 8000.0)], False),
    ],
)
def test_rule_of_the_seed(rows, accepted):
    assert accept_seed(votes_table(*rows)) is accepted


def test_each_condition_is_a_parameter():
    three = votes_table((1, 3, 7000.0), (2, 2, 1.0))
    assert accept_seed(three, min_hits=2)
    assert accept_seed(votes_table((1, 5, 10.0)), min_hits_single=4)
    assert not accept_seed(votes_table((1, 9, 10.0), (2, 1, 1.0)), max_mean_squared_distance=10.0)


def test_copies_of_one_picture_count_as_one_neighbour():
    image_rows = np.array([[7, 8, 7, 3, 9], [3, 3, 7, 8, -1], [7, 8, 9, -1, -1]])
    groups = np.array([[7, 7, 7, 3, 7], [3, 3, 7, 7, -1], [7, 7, 7, -1, -1]])
    columns = one_member_of_each_group(image_rows, groups, 3)
    assert columns.tolist() == [[0, 2, 3], [0, 1, 2], [0, -1, -1]]


def test_a_group_votes_as_one_image_for_its_member_with_most_hits():
    image_rows = np.array([[7, 3], [8, 3], [8, 3], [9, 2]])
    groups = np.array([[7, 3], [7, 3], [7, 3], [7, 2]])
    found = vote(image_rows, np.array([[10.0, 20.0]] * 4), group_rows=groups)
    assert found.reference_row.tolist() == [8, 3, 2] and found.votes.tolist() == [4, 3, 1]

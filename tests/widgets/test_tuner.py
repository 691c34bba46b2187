# SPDX-License-Identifier: AGPL-3.0-or-later
from dataclasses import replace

import numpy as np
import pytest

from imgfp import store, widgets
from imgfp.results import Results
from imgfp.results.replay import Replay
from imgfp.runner import params
from imgfp.widgets import tuner as module


@pytest.fixture
def tuner(own_run, tmp_path):
    (tmp_path / "mine.yaml").write_text("seed: 0  # of every random choice\n")
    inspector = widgets.MatchInspector(own_run)
    return widgets.PipelineTuner(own_run, inspector=inspector, profiles=tmp_path)


def test_a_moved_line_changes_the_figures_and_is_written(tuner, own_run, tmp_path, text_of):
    before = tuner.table.value
    assert "gives these figures" in tuner.beyond.value and not tuner.shelf.pairs
    tuner.source.value = "global"
    tuner.value.value = 1.0
    tuner.source.value = "local"
    tuner.line.value = float(np.log10(1 + 150))
    moved = {"local_min_votes": 150, "global_min_similarity": 1.0}
    assert tuner.settings.local_min_votes == 150 and tuner.table.value != before
    wanted = Replay(own_run).preview(replace(Replay(own_run).settings, **moved))
    assert f">{wanted.figures.pairs:,}</td>" in tuner.table.value
    assert "local_min_votes: 150" in tuner.writer.lines.value
    assert tuner.shelf.pairs and "lost: " in text_of(tuner.shelf.places[0])
    tuner.shelf.places[0].children[1].click()
    assert tuner.shelf.inspected.children[0].pager.key == tuner.shelf.pairs[0]
    tuner.writer.write()
    written = params.read_profile(tmp_path / "mine.yaml")
    assert written == {"seed": 0, **moved, "tuned_on": own_run.truth_hash}


def test_each_line_moves_its_own_parameter_and_there_is_none_without_one(tuner):
    settings = tuner.settings
    for source, measures in module.SOURCES.items():
        tuner.source.value = source
        for measure, chosen in measures.items():
            tuner.measure.value = measure
            name = chosen.parameter
            is_offered = bool(name) and not name.startswith("vote_")  # which this run does not use
            assert (tuner.line.layout.visibility == "visible") == is_offered != tuner.line.disabled
            assert ("Drag the dashed line" in tuner.hint.value) == is_offered
            if is_offered and name != "score_threshold":
                assert tuner.value.value == getattr(settings, name)
                assert tuner.value.description == name
    assert tuner.value.value == pytest.approx(tuner._replay.base.figures.cut)
    assert tuner._changed() == {}


def test_the_distance_has_a_line_where_the_rule_of_the_branch_decides(own_run, tmp_path):
    own_run.params["candidates_scored"] = "accepted"
    tuner = widgets.PipelineTuner(own_run, profiles=tmp_path)
    tuner.measure.value = "distance"
    assert tuner.value.value == 8000
    proposed = tuner._replay.base.figures.proposed["local"]
    tuner.value.value = 3000.0  # all have 4000, and an identical file needs no rule
    assert tuner._replay.preview(tuner.settings).figures.proposed["local"] == 1 < proposed


def test_numbers_are_those_kept(tuner):
    tuner.numbers["local_candidates"].value = 1
    assert tuner._changed()["local_candidates"] == 1
    tuner.numbers["local_candidates"].value = 99
    assert tuner.settings.local_candidates == tuner._replay.settings.local_candidates


def test_moving_a_line_draws_no_chart_again(tuner, calls_of):
    drawn = calls_of(module.svg.Chart, "of")
    tuner.line.value = 1.0
    assert not drawn
    tuner.source.value = "global"
    assert len(drawn) == 1


def test_without_truth_it_says_what_cannot_be_known(own_run, tmp_path):
    store.remove(own_run.run.truth_csv)
    blind = widgets.PipelineTuner(Results(own_run.run, own_run.library), profiles=tmp_path)
    assert "nobody knows what is lost" in blind.beyond.value and "–" in blind.table.value


def test_a_run_without_evidence_says_which_notebook_to_run(tmp_path, text_of):
    (tmp_path / "run").mkdir()
    view = widgets.PipelineTuner(Results(tmp_path / "run", tmp_path / "library"))
    assert "run notebooks 03 to 08" in text_of(view)

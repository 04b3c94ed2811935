"""Runs side by side: what differs, seeds as one line with their interval, x as one wants it, and files of it."""

import csv
import io
import json
import re
from datetime import timedelta

import numpy as np
import pytest
from django.http import QueryDict
from django.utils import timezone

from fleetui.charts import figures
from fleetui.fleet.models import Episode, Intervention
from fleetui.learning import comparing
from fleetui.learning.models import Metric, Run
from tests.fleetui.lab import Lab, make_dataset
from training.intervals import bootstrap, newcombe, student
from training.recipes import ImproveRecipe, SFTRecipe

BEGUN = timezone.now() - timedelta(hours=4)


@pytest.fixture
def lab(db, settings, tmp_path):
    settings.DATA = tmp_path
    return Lab("north")


def sft(lab, dataset, seed, successes, losses=(), **recipe):
    run = Run.objects.create(
        lab=lab.row,
        name=f"sft {recipe or ''}",
        kind="sft",
        state="completed",
        recipe=SFTRecipe(seed=seed, **recipe).to_json(),
        dataset=dataset,
        started_at=BEGUN,
    )
    lines = [("loss", {"step": step, "bc": value}) for step, value in losses]
    lines.append(("evaluation", {"successes": successes, "n": 100, "version": 0, "practice_episodes": 0}))
    Metric.objects.bulk_create(
        Metric(run=run, seq=seq, kind=kind, data=data, at=BEGUN + timedelta(minutes=seq))
        for seq, (kind, data) in enumerate(lines, 1)
    )
    return run


def compared(lab, runs, **wishes):
    query = QueryDict(mutable=True)
    query.update(wishes)
    query.setlist("run", [str(run.pk) for run in runs])
    return comparing.compare(lab.row, comparing.Wish.of(query))


def get(lab, path, runs, role="viewer", **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/runs/{path}", {"run": [run.pk for run in runs], **query})


def test_runs_that_differ_in_the_seed_alone_are_one_line_with_a_t_interval(lab):
    dataset = make_dataset(lab)
    small = [sft(lab, dataset, seed, 60 + seed, batch=64) for seed in (1, 2, 3)]
    large = [sft(lab, dataset, seed, 70 + 2 * seed, batch=128) for seed in (1, 2, 3)]
    found = compared(lab, small + large)
    first, second = found["lines"]
    assert (first["seeds"], first["runs"]) == (3, [run.pk for run in small])
    assert first["y"] == pytest.approx([0.62]) and second["y"] == pytest.approx([0.74])
    low, high = student(np.array([[0.61], [0.62], [0.63]]))
    assert first["low"] == pytest.approx(low) and first["high"] == pytest.approx(high)
    assert low[0] == pytest.approx(0.62 - 4.3027 * 0.01 / 3**0.5, abs=1e-4)  # t(2) from a table
    (difference,) = found["differences"]
    assert difference["mean"] == pytest.approx(0.12) and difference["seeds"] == [1, 2, 3]
    assert difference["low"] == pytest.approx(0.12 - 4.3027 * 0.01 / 3**0.5, abs=1e-4)
    apart = compared(lab, small + large, seeds="apart")
    assert len(apart["lines"]) == 6 and apart["lines"][0]["band"] == "95 %, Wilson"
    backwards = compared(lab, small + large, baseline=str(large[1].pk))["differences"]
    assert backwards[0]["mean"] == pytest.approx(-0.12)


def test_one_pair_has_newcombes_interval_and_strangers_have_none(lab):
    dataset = make_dataset(lab)
    one, two = sft(lab, dataset, 1, 56, batch=64), sft(lab, dataset, 1, 48, batch=128)
    (row,) = compared(lab, [one, two])["differences"]
    assert (row["mean"], row["low"], row["high"]) == pytest.approx(newcombe((56, 100), (48, 100)))
    assert "Newcombe" in row["how"]
    (row,) = compared(lab, [one, sft(lab, dataset, 9, 48, batch=128)])["differences"]
    assert row["mean"] is None and row["how"] == "no seed in common"


def test_newcombes_interval_is_that_of_his_paper():
    # Newcombe 1998, table II, (a): 56 of 70 less 48 of 80, method 10 without continuity correction.
    assert newcombe((48, 80), (56, 70)) == pytest.approx((0.2, 0.0524, 0.3339), abs=2e-4)


def test_a_bootstrap_of_the_mean_is_about_the_t_interval_and_the_same_each_time():
    values = np.random.default_rng(0).normal(5, 2, size=(40, 3))
    low, high = bootstrap(values)
    assert np.abs(np.stack(student(values)) - [low, high]).max() < 0.12
    assert np.array_equal(bootstrap(values)[0], low)


def test_only_what_differs_is_listed_unless_all_is_asked_for(lab):
    dataset = make_dataset(lab)
    runs = [sft(lab, dataset, 1, 50, batch=64), sft(lab, dataset, 2, 50, batch=128)]
    page = get(lab, "compare", runs).content.decode()
    assert re.findall(r'<th scope="row">(.*?)</th>', page) == ["Seed", "Batch size"]
    page = get(lab, "compare", runs, recipe="all").content.decode()
    assert "Learning rate" in page and page.count('class="differs"') == 4


def test_a_long_curve_keeps_its_peaks_in_two_thousand_points(lab):
    losses = [(step, 1.0 + (step == 7001) * 50 - (step == 3003) * 9) for step in range(1, 10_001)]
    run = sft(lab, make_dataset(lab), 1, 50, losses=losses)
    (line,) = compared(lab, [run], curve="loss.bc", x="own")["lines"]
    assert len(line["x"]) <= 2000 and line["points"] == 10_000
    assert max(line["y"]) == 51 and min(line["y"]) == -8 and (line["x"][0], line["x"][-1]) == (1, 10_000)
    assert line["x"] == sorted(line["x"])
    assert "of 10000 points" in get(lab, "compare", [run], curve="loss.bc", x="own").content.decode()
    smooth = compared(lab, [run], curve="loss.bc", x="own", smooth="0.9")["lines"][0]
    assert max(smooth["y"]) < 10 and max(smooth["raw"]) == 51


def test_x_is_practice_robot_time_or_a_persons(lab):
    parent = sft(lab, make_dataset(lab), 1, 50)
    run = Run.objects.create(
        lab=lab.row,
        name="practice",
        kind="improve",
        state="completed",
        recipe=ImproveRecipe().to_json(),
        parent=parent,
        started_at=BEGUN,
    )
    for hour in (1, 2, 3):
        Metric.objects.create(
            run=run,
            seq=hour,
            kind="update",
            at=BEGUN + timedelta(hours=hour),
            data={"version": hour, "detected_rate": hour / 10},
        )
    for minutes in (30, 50, 70, 200):  # the last one came after the last point
        Episode.objects.create(
            lab=lab.row,
            station=lab.stations[0],
            run=run,
            instruction="push",
            purpose="practice",
            ending="success",
            detected_success=True,
            steps=40,
            started_at=BEGUN,
            stored_at=BEGUN + timedelta(minutes=minutes),
            path="x",
            duration_s=720,
        )
    Intervention.objects.create(
        lab=lab.row,
        station=lab.stations[0],
        run=run,
        kind="reset",
        started_at=BEGUN + timedelta(minutes=90),
        seconds=9,
        human_s=30,
    )
    wanted = {
        "own": [1, 2, 3],
        "episodes": [2, 3, 3],
        "steps": [80, 120, 120],
        "wall": [1, 2, 3],
        "robot": [0.4, 0.6, 0.6],
        "human": [0, 0.5, 0.5],
    }
    for x, xs in wanted.items():
        (line,) = compared(lab, [run], curve="update.detected_rate", x=x)["lines"]
        assert line["x"] == pytest.approx(xs), x


def test_files_hold_what_is_drawn(lab):
    dataset = make_dataset(lab)
    run = sft(lab, dataset, 1, 50)
    Run.objects.filter(pk=run.pk).update(name="=cmd")
    run.refresh_from_db()
    rows = list(csv.DictReader(io.StringIO(get(lab, "compare.csv", [run]).content.decode())))
    assert rows[0]["line"] == f"'=cmd #{run.pk}" and float(rows[0]["True success of evaluations"]) == 0.5
    found = json.loads(get(lab, "compare.json", [run]).content)
    assert found["lines"][0]["y"] == [0.5] and found["runs"][0]["recipe"]["seed"] == 1


def test_of_other_labs_runs_nothing_is_said(lab):
    other = Lab("south")
    run = sft(lab, make_dataset(lab), 1, 50)
    answer = get(other, "compare", [run])
    assert answer.status_code == 200 and "1 of the runs" in answer.content.decode()
    assert run.name not in answer.content.decode()
    assert json.loads(get(other, "compare.json", [run]).content)["runs"] == []
    assert "No runs chosen" in get(lab, "compare", []).content.decode()


def test_more_than_twenty_are_not_drawn(lab):
    dataset = make_dataset(lab)
    runs = [sft(lab, dataset, 1, 50, batch=2 + number) for number in range(22)]
    answer = get(lab, "compare", runs)
    assert "More than 20 runs" in answer.content.decode()
    figure = figures.comparison(compared(lab, runs), "dark")
    drawn = [trace for trace in figure.data if trace.showlegend is not False]
    assert len(drawn) == 20
    assert len({(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in drawn}) == 20

"""The register of metrics: what files, tables and leaderboards say follows from it, and nothing is lost on the way."""

import csv
import dataclasses
import inspect
import json
import math
import subprocess
import sys
import typing

import numpy as np
import pytest
from test_foreign_maps import measured, small  # noqa: F401  (a fixture)

from medvae.benchmark.statistics import Measured
from medvae.commands import evaluate as command
from medvae.evaluation.bootstrap import Interval
from medvae.evaluation.metrics import (
    Column,
    Metric,
    OfSums,
    PointMetric,
    RegionMetric,
    Table,
    columns,
    named_metric,
    register,
    registered,
)
from medvae.evaluation.metrics import registry as registry_module
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.protocols import PROTOCOLS
from medvae.evaluation.result import MASK, Quantity, quantities
from medvae.evaluation.writing import read_study, write_study
from medvae.reporting import tables


@pytest.fixture
def missed(monkeypatch):
    """A further metric at operating points, registered for the length of a test by one call."""
    monkeypatch.setattr(registry_module, "_METRICS", dict(registry_module._METRICS))
    return register(
        PointMetric(
            name="missed_share",
            meaning="Share of the lesion voxels that are not flagged.",
            higher_is_better=False,
            of_case=lambda case: 1 - case.n_true / case.n_lesion if case.n_lesion else math.nan,
            of_cases=lambda cases: 1 - cases.total("true") / cases.lesion_voxels,
            of_sums=OfSums(("true", "lesion_voxels"), lambda true, lesion: 1 - true / lesion),
            tables={Table.METHODS: Column("missed", percent=True), Table.THRESHOLDS: Column("missed", digits=4)},
        )
    )


def test_a_metric_that_is_registered_is_in_results_files_tables_and_benchmarks(missed, small, tmp_path):  # noqa: F811
    study = measured(small)
    point = study.operating_points[0]
    assert point["missed_share"] == pytest.approx(1 - point["sensitivity"])
    found, opposite = study.interval("missed_share", at=point.name), study.interval("sensitivity", at=point.name)
    assert (found.low, found.high) == pytest.approx((1 - opposite.high, 1 - opposite.low))
    write_study(study, tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["operating_points"][0]["missed_share"] == point["missed_share"]
    assert written["per_case_summary"][f"missed_share_{point.name}"]["n"] == 7
    with open(tmp_path / "per_case.csv") as stream:
        first = next(csv.DictReader(stream))
    assert float(first[f"missed_share_{point.name}"]) == study.per_case[0].number("missed_share", at=point.name)
    assert f"per_case_mean_missed_share_{point.name}" in (tmp_path / "summary.csv").read_text()
    header, rows = tables.point_rows([study])
    assert rows[0][header.index("missed")] == f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    assert "missed @ 1 % FPR" in tables.study_rows([study])[0]
    numbers = Measured.of(study)
    quantity = Quantity("missed_share", point.name)
    assert numbers.numbers[quantity] == point["missed_share"]
    assert np.quantile(numbers.resampled[quantity], 0.025) == pytest.approx(found.low)


def test_files_without_it_are_still_read_and_files_with_it_when_it_is_gone(missed, small, tmp_path, monkeypatch):  # noqa: F811
    write_study(measured(small), tmp_path / "with")
    monkeypatch.undo()
    back, _ = read_study(tmp_path / "with")
    assert all(quantity.name != "missed_share" for quantity in back.per_case[0].numbers)
    without = measured(small)
    assert list(back.per_case[0].numbers) == list(without.per_case[0].numbers)
    with pytest.raises(KeyError, match="is no metric; there are"):
        without.operating_points[0]["missed_share"]


def test_every_number_of_a_study_knows_its_metric(small):  # noqa: F811
    study = measured(small, protocol="brats2023", thresholds=[1.5])
    for found in study.values():
        assert found.of.metric.meaning.endswith(".")
    units = {found.of.column: found.of.metric.unit for found in study.values()}
    assert (units["hd95_mm_fpr_0.01"], units["dice_fpr_0.01"], units["lesion_ml"]) == ("mm", "", "ml")
    assert units["brats_hd95_mm_lesion_threshold_1.5"] == "mm"
    values = {(found.of.column, found.statistic): found for found in study.values()}
    assert isinstance(values["ap", "pooled"].interval, Interval)
    assert values["ap", "mean"].value == np.mean([case.number("ap") for case in study.per_case if not case.healthy])
    assert {"case_auroc_p99", "fpr_fpr_0.05", "n_subjects"} <= set(units)


def test_columns_are_read_back_as_what_they_are():
    points, regions = ["fpr_0.01", "fpr_0.05", MASK, "threshold_0.5"], ["whole tumour", "core"]
    found = quantities(points, regions)
    every = [m for m in registered(Metric) if isinstance(m, RegionMetric)]
    assert found["brats_dice_whole tumour_fpr_0.01"] == Quantity("brats_dice", "fpr_0.01", "whole tumour")
    assert found["dice_mask"] == Quantity("dice", MASK)
    assert found["score_p99"] == Quantity("score", part="p99")
    assert found["fpr_at_95_tpr"] == Quantity("fpr_at_95_tpr")
    assert sum(quantity.part in regions for quantity in found.values()) == len(every) * len(points) * len(regions)
    assert all(name == quantity.column for name, quantity in found.items())


def test_two_metrics_of_one_name_are_refused():
    with pytest.raises(ValueError, match='two metrics called "dice"'):
        register(dataclasses.replace(named_metric("dice")))


def test_tables_have_columns_in_their_order():
    assert [column.title for _, column in columns(Table.LEADERBOARD_THRESHOLDS, PointMetric)] == [
        "Dice", "sensitivity", "lesion F1", "lesions found", "realised FPR"
    ]  # fmt: skip


def test_the_documents_explain_every_metric(repository):
    text = (repository / "docs" / "EVALUATION.md").read_text()
    assert tables.markdown_table(*tables.metric_rows()) in text


def test_defaults_of_the_command_are_those_of_the_options():
    names = {"split": "splits", "threshold": "thresholds", "resample": "resampled", "min_lesion_ml": "smallest_ml"}
    defaults = {names.get(p.name, p.name): p.default for p in inspect.signature(command.evaluate).parameters.values()}
    for field in dataclasses.fields(EvaluationOptions):
        if field.name not in ("resamples", "masks"):
            default = defaults[field.name]
            assert (tuple(default or ()) if isinstance(field.default, tuple) else default) == field.default


def test_the_help_names_the_protocols_and_loads_no_array_library():
    option = typing.get_type_hints(command.evaluate, include_extras=True)["protocol"].__metadata__[0]
    assert all(name in option.help for name in PROTOCOLS)
    program = "import sys, medvae.evaluation.protocols; print([n for n in ('numpy', 'scipy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

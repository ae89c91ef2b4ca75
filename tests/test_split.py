"""Who trains, who validates, who is tested."""

import random

import numpy as np
import pytest

from medvae.errors import MedvaeError
from medvae.importing.scan import FoundScan
from medvae.importing.split import Fractions, split_subjects


def people(count, **known):
    return [FoundScan(f"p{i:03d}", (), healthy=True, **known) for i in range(count)]


@pytest.mark.parametrize(
    "fractions", [Fractions(), Fractions(0.5, 0.25), Fractions(1, 0), Fractions(0, 0), Fractions(0.9, 0.1)]
)
@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_splits_have_their_shares(fractions, count):
    splits = list(split_subjects(people(count), fractions, 0).values())
    assert len(splits) == count
    for split, share in fractions.shares().items():
        assert abs(splits.count(split) - share * count) < 1
        assert share > 1e-9 or split not in splits


def test_splits_depend_on_the_seed_and_not_on_the_order():
    scans = people(60)
    shuffled = random.Random(1).sample(scans, len(scans))
    assert split_subjects(scans, Fractions(), 3) == split_subjects(shuffled, Fractions(), 3)
    assert split_subjects(scans, Fractions(), 3) != split_subjects(scans, Fractions(), 4)


def test_every_site_and_age_group_is_divided_alike():
    rng = np.random.default_rng(0)
    scans = [FoundScan(f"{s}{i}", (), True, site=s, age=float(rng.uniform(20, 80))) for s in "AB" for i in range(90)]
    splits = split_subjects(scans, Fractions(0.6, 0.2), 0)
    for site in "AB":
        for decade in range(2, 8):
            group = [splits[s.id] for s in scans if s.site == site and s.age // 10 == decade]
            for split, share in Fractions(0.6, 0.2).shares().items():
                assert abs(group.count(split) - share * len(group)) < 2
        assert abs([splits[s.id] for s in scans if s.site == site].count("train") - 54) < 2


def test_a_person_with_one_lesion_scan_is_tested_with_all_scans(tmp_path):
    label = tmp_path / "l.nii.gz"
    scans = [FoundScan(f"{p}_{s}", (), healthy=True, subject=p) for p in "abcdefgh" for s in "12"]
    scans += [FoundScan("a_3", (), label=label, subject="a"), FoundScan("b_3", (), subject="b")]
    splits = split_subjects(scans, Fractions(1, 0), 0)
    assert {name for name, split in splits.items() if split == "test"} == {"a", "b"}


@pytest.mark.parametrize("shares", [(0.8, 0.3), (-0.1, 0.5), (1.2, 0)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(MedvaeError, match="add up to at most 1"):
        Fractions(*shares)

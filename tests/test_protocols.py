"""Named protocols and lesion-wise numbers: against scikit-learn, torch and brute force on the same small volumes."""

import json
import sys

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score
from torch.nn import functional

from medvae.cli import main
from medvae.errors import MedvaeError
from medvae.evaluation.brats import lesion_wise
from medvae.evaluation.conventions import best_threshold
from medvae.evaluation.curves import SparseCounts
from medvae.evaluation.options import EvaluationOptions
from medvae.evaluation.protocols import PROTOCOLS
from medvae.evaluation.study import evaluate
from medvae.manifest import Case, Manifest, read_manifest, write_manifest

SHAPE = (20, 18, 10)
AFFINE = np.diag([-2.0, 2.0, 2.5, 1.0])
EVERYWHERE = np.ones((3, 3, 3), bool)


def save(path, array, affine=AFFINE):
    nib.save(nib.Nifti1Image(np.asarray(array, np.float32), affine), path)


@pytest.fixture
def cohort(tmp_path):
    """Four people with lesions, which reach out of the brain, three healthy ones, and a smooth map of each."""
    rng = np.random.default_rng(0)
    (tmp_path / "maps").mkdir()
    brain = np.zeros(SHAPE, bool)
    brain[2:-2, 2:-2, 1:-1] = True
    save(tmp_path / "brain.nii.gz", brain)
    cases = []
    for number in range(7):
        name, truth = f"c{number}", np.zeros(SHAPE, np.uint8)
        if number < 4:
            truth[1:7, 4:9, 2:6] = 1
            truth[12:15, 10:13, 4:6] = 2 + (number == 0)
            save(tmp_path / f"{name}_label.nii.gz", truth)
        noise = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 0.6)
        save(tmp_path / f"{name}.nii.gz", 100.0 * brain)
        save(tmp_path / "maps" / f"{name}.nii.gz", 0.4 + noise + 0.4 * (truth > 0))
        label = f"{name}_label.nii.gz" if number < 4 else None
        cases.append(Case(id=name, image=f"{name}.nii.gz", mask="brain.nii.gz", label=label, split="test"))
    values = {"whole": [1, 2, 3], "core": [2, 3], "rest": [4]}
    manifest = Manifest(name="small", modality={"0": "T1"}, label_values=values, cases=cases)
    return read_manifest(write_manifest(manifest, tmp_path / "cohort.json")), tmp_path / "maps", brain


def measured(cohort, protocol, **options):
    manifest, maps, _ = cohort
    options = EvaluationOptions(pattern="{id}.nii.gz", resamples=100, protocol=protocol, **options)
    return evaluate(maps, manifest, options)


def arrays(cohort, number):
    manifest, maps, _ = cohort
    case = manifest.cases[number]
    truth = nib.load(manifest.resolve(case.label)).get_fdata() > 0 if case.label else np.zeros(SHAPE, bool)
    return nib.load(maps / f"{case.id}.nii.gz").get_fdata(), truth


def test_mood_is_scikit_learn_on_all_voxels_with_failures_as_zeros(cohort):
    _, maps, _ = cohort
    everything = [arrays(cohort, number) for number in range(7)]
    (maps / "c0.nii.gz").unlink()
    save(maps / "c1.nii.gz", np.ones((5, 5, 5)))
    (maps / "c5.nii.gz").write_bytes(b"half a file")
    shifted = AFFINE.copy()
    shifted[:3, 3] = 40
    save(maps / "c2.nii.gz", everything[2][0], shifted)  # only shapes are compared
    (maps / "c6.nii.gz").unlink()
    zero = {0, 1, 5, 6}
    scores = [np.clip(s.astype(np.float16), 0, 1) * (i not in zero) for i, (s, _) in enumerate(everything)]
    truth = [t for _, t in everything]
    study = measured(cohort, "mood")
    flat = [np.concatenate([a.ravel() for a in part]) for part in (truth, scores)]
    assert study.pooled["ap"] == pytest.approx(average_precision_score(*flat), abs=1e-9)
    assert study.pooled["auroc"] == pytest.approx(roc_auc_score(*flat), abs=1e-9)
    assert study.pooled["n_voxels"] == 7 * np.prod(SHAPE)
    diseased = [i < 4 for i in range(7)]
    for name, of in (("mean", np.mean), ("max", np.max)):
        of_scans = [float(of(s.astype(np.float32))) for s in scores]
        assert study.case_level.scores[name]["ap"].value == pytest.approx(average_precision_score(diseased, of_scans))
    assert study.missing == ["c0", "c6"]
    assert sum("counts as 0" in note for note in study.notes) == 2
    assert study.settings.protocol.name == "mood"
    assert not study.operating_points


def test_mood_refuses_what_is_not_a_number(cohort):
    _, maps, _ = cohort
    scores, _ = arrays(cohort, 3)
    scores[0, 0, 0] = np.nan
    save(maps / "c3.nii.gz", scores)
    with pytest.raises(MedvaeError, match="NaN"):
        measured(cohort, "mood")


def without_small(mask):
    labels, count = ndimage.label(mask, EVERYWHERE)
    return np.isin(labels, [k for k in range(1, count + 1) if (labels == k).sum() > 20])


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_meissen_is_a_hundred_thresholds_and_then_no_small_component(cohort):
    brain = cohort[2]
    scores, truth = (np.stack(part) for part in zip(*(arrays(cohort, number) for number in range(4)), strict=True))
    scores = np.array([np.where(brain, s, min(0, s[brain].min())) for s in scores])
    thresholds = np.linspace(scores.min(), scores.max(), 100)
    values = [dice(scores > t, truth) for t in thresholds]
    best = thresholds[int(np.argmax(values))]
    kept = np.stack([without_small(s > best) for s in scores])
    assert dice(kept, truth) != max(values)
    pooled = measured(cohort, "meissen").pooled
    assert pooled["oracle_dice"] == pytest.approx(max(values), abs=2e-4)
    assert pooled["oracle_threshold"] == pytest.approx(best, abs=1e-3)
    assert pooled["oracle_dice_components"] == pytest.approx(dice(kept, truth), abs=2e-4)
    precision, recall, _ = precision_recall_curve(truth.ravel(), scores.ravel())
    assert pooled["auprc_trapezoid"] == pytest.approx(auc(recall, precision), abs=1e-4)
    assert pooled["auroc"] == pytest.approx(roc_auc_score(truth.ravel(), scores.ravel()), abs=1e-4)


def test_dae_is_eroded_and_filtered_slice_by_slice(cohort):
    brain = cohort[2]
    slices = torch.from_numpy(brain.transpose(2, 0, 1)[:, None]).float()
    inner = (functional.avg_pool2d(slices, 5, stride=1, padding=2) > 0.95)[:, 0].numpy().transpose(1, 2, 0)
    assert 0 < inner.sum() < brain.sum()
    scores, truth = [], []
    for number in range(4):
        values, lesion = arrays(cohort, number)
        values = np.where(inner, values, min(0, values[brain].min())).astype(np.float32)
        padded = functional.pad(torch.from_numpy(values.transpose(2, 0, 1)[:, None]), [2] * 4, mode="reflect")
        windows = padded.unfold(2, 5, 1).unfold(3, 5, 1).flatten(-2)[:, 0]
        scores.append(windows.median(-1)[0].numpy().transpose(1, 2, 0))
        truth.append(lesion)
    scores, truth = np.stack(scores), np.stack(truth)
    study = measured(cohort, "dae")
    assert study.pooled["ap"] == pytest.approx(average_precision_score(truth.ravel(), scores.ravel()), abs=2e-4)
    best = max(np.unique(scores), key=lambda t: dice(scores >= t, truth))
    assert study.pooled["oracle_dice"] == pytest.approx(dice(scores >= best, truth), abs=1e-3)
    kept = np.stack([without_small(s >= best) for s in scores])
    assert study.pooled["oracle_dice_components"] == pytest.approx(dice(kept, truth), abs=2e-3)


def test_the_axial_plane_is_found_in_the_header(cohort, tmp_path):
    """A scan whose first array axis is head-foot is filtered in the same plane of the body."""
    manifest, maps, _ = cohort
    turned = tmp_path / "turned"
    (turned / "maps").mkdir(parents=True)
    affine = AFFINE[:, [2, 0, 1, 3]]
    for file in [*tmp_path.glob("*.nii.gz"), *maps.glob("*.nii.gz")]:
        save(turned / file.relative_to(tmp_path), nib.load(file).get_fdata().transpose(2, 0, 1), affine)
    other = read_manifest(write_manifest(manifest.model_copy(), turned / "cohort.json"))
    same = measured((other, turned / "maps", None), "dae").pooled
    assert same == pytest.approx(measured(cohort, "dae").pooled)


def test_the_best_dice_of_all_thresholds_flags_what_it_says():
    rng = np.random.default_rng(2)
    truth = rng.random(3000) < 0.2
    scores = (rng.standard_normal(3000) + truth).round(1).astype(np.float32)
    counts = SparseCounts.of(scores, truth)
    value, threshold = best_threshold(counts, None)
    assert value == pytest.approx(counts.summary().oracle_dice)
    assert dice(scores > np.float32(threshold), truth) == pytest.approx(value)


def test_a_wrong_name_is_told(cohort):
    with pytest.raises(MedvaeError, match=r"none of medvae, mood, meissen, dae, brats2023"):
        measured(cohort, "moood")
    assert all(protocol.source for protocol in PROTOCOLS.values())


def test_the_default_protocol_is_medvaes_own(cohort):
    manifest, maps, brain = cohort
    study = evaluate(maps, manifest, EvaluationOptions(pattern="{id}.nii.gz", resamples=100))
    scores, truth = (np.stack(part)[:, brain] for part in zip(*(arrays(cohort, n) for n in range(4)), strict=True))
    assert study.pooled["ap"] == pytest.approx(average_precision_score(truth.ravel(), scores.ravel()), abs=2e-4)
    assert "oracle_dice_components" not in study.pooled


# --- BraTS 2023 -------------------------------------------------------------------------------------------------------


def brute_force(flagged, truth, spacing):
    """The rules word by word: a set of voxels for each lesion and component, distances between all of them."""
    steps = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]
    near = {n: [s for s in steps if sum(map(abs, s)) <= n] for n in (1, 2, 3)}

    def around(voxels, reach):
        return {(x + a, y + b, z + c) for x, y, z in voxels for a, b, c in near[reach]}

    def dilated(voxels):
        for _ in range(3):
            voxels = around(voxels, 2)
        return voxels

    def components(voxels):
        left, found = set(voxels), []
        while left:
            part, edge = set(), {left.pop()}
            while edge:
                part |= edge
                edge = around(edge, 3) & left
                left -= edge
            found.append(part)
        return found

    def surface(voxels):
        return np.array([v for v in voxels if around({v}, 1) - voxels]) * spacing

    def hd95(a, b):
        apart = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
        return max(np.quantile(apart.min(1), 0.95), np.quantile(apart.min(0), 0.95))

    lesion, found = (set(map(tuple, np.argwhere(m).tolist())) for m in (truth, flagged))
    findings, used, rows = components(found), set(), []
    for region in components(dilated(lesion)):
        mine = lesion & region
        met = [i for i, f in enumerate(findings) if f & dilated(mine)]
        used |= set(met)
        if len(mine) * np.prod(spacing) <= 50:
            continue
        union = set().union(*(findings[i] for i in met))
        rows.append((2 * len(union & mine) / (len(union) + len(mine)), hd95(union, mine)) if met else (0, 374))
    rows += [(0, 374)] * (len(findings) - len(used))
    return tuple(np.mean(rows, axis=0)) if rows else (1, 0)


@pytest.mark.parametrize("seed", range(4))
def test_lesion_wise_numbers_are_those_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    truth, flagged = (ndimage.gaussian_filter(rng.standard_normal((36, 14, 12)), 1.4) > 0.22 for _ in range(2))
    flagged |= truth & (rng.random(truth.shape) < 0.5)
    spacing = (1.5, 1.0, 1.0)
    found = lesion_wise(flagged, truth, spacing)
    assert (found.dice, found.hd95_mm) == pytest.approx(brute_force(flagged, truth, np.array(spacing)))
    assert 0 < found.dice < 1


def box(*corners, size=5, shape=(60, 30, 30)):
    found = np.zeros(shape, bool)
    for corner in corners:
        found[tuple(slice(c, c + size) for c in corner)] = True
    return found


def test_lesion_wise_by_hand():
    mm = (1.0, 1.0, 1.0)
    one, other, far = (5, 5, 5), (14, 5, 5), (40, 5, 5)
    near = box(one, other)  # 4 voxels apart: they touch when dilated, and are one lesion
    found = lesion_wise(box(one), near, mm)
    assert (found.dice, found.lesions, found.missed) == (pytest.approx(2 / 3), 1, 0)
    missed = lesion_wise(box(one), box(one, far), mm)
    assert (missed.dice, missed.hd95_mm, missed.missed) == (0.5, 187, 1)
    false = lesion_wise(box(one) | box(far, size=1), box(one), mm)  # one voxel is enough to be false
    assert (false.dice, false.hd95_mm, false.false) == (0.5, 187, 1)
    small = lesion_wise(box(one) | box(far, size=3), box(one) | box(far, size=3), mm)
    assert (small.dice, small.lesions, small.false) == (1, 1, 0)  # 27 mm³ do not count, and excuse what finds them
    assert lesion_wise(box(), box(), mm).dice == 1
    assert (lesion_wise(box(one), box(), mm).dice, lesion_wise(box(), box(one), mm).hd95_mm) == (0, 374)


def test_distances_are_nearly_those_of_the_organisers_package():
    package = pytest.importorskip(
        "surface_distance", reason="surface-distance, which BraTS 2023 used, is not installed"
    )
    rng = np.random.default_rng(1)
    for _ in range(5):
        a, b = (ndimage.gaussian_filter(rng.standard_normal((40, 40, 40)), 4) > 0.01 for _ in range(2))
        labels, _ = ndimage.label(b, EVERYWHERE)
        b = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:])
        grown = ndimage.binary_dilation(b, iterations=int(rng.integers(1, 4))) & ~(a & (rng.random(a.shape) < 0.3))
        distances = package.compute_surface_distances(b, grown, (1, 1, 1))
        expected = package.compute_robust_hausdorff(distances, 95)
        assert lesion_wise(grown, b, (1.0, 1.0, 1.0)).hd95_mm == pytest.approx(expected, abs=1)


def test_the_brats_protocol_measures_each_region_at_each_threshold(cohort, tmp_path, capsys, monkeypatch):
    manifest, maps, brain = cohort
    study = measured(cohort, "brats2023", thresholds=[0.6])
    assert [row.region for row in study.brats] == ["whole", "core"]  # "rest" is no part of the first region
    spacing = (2.0, 2.0, 2.5)
    expected = {"whole": [], "core": []}
    for number in range(4):
        flagged = (arrays(cohort, number)[0].astype(np.float32) > np.float32(0.6)) & brain
        labels = nib.load(manifest.resolve(manifest.cases[number].label)).get_fdata()
        expected["whole"].append(lesion_wise(flagged, labels > 0, spacing))
        expected["core"].append(lesion_wise(flagged, labels > 1, spacing))
    for row in study.brats:
        assert row.numbers["dice"] == pytest.approx(np.mean([one.dice for one in expected[row.region]]))
        assert row.numbers["hd95_mm"] == pytest.approx(np.mean([one.hd95_mm for one in expected[row.region]]))
        assert row.numbers["false"] == sum(one.false for one in expected[row.region])
    command = ["medvae", "evaluate", maps, "--manifest", manifest.path, "--pattern", "{id}.nii.gz", "--quiet"]
    command += ["--protocol", "brats2023", "--threshold", "0.6", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "lesion-wise Dice" in (tmp_path / "out" / "table.md").read_text()
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["settings"]["protocol"]["name"] == "brats2023"
    assert written["brats"][0]["dice"] == pytest.approx(study.brats[0].numbers["dice"])
    assert "brats_dice_whole_threshold_0.6" in (tmp_path / "out" / "summary.csv").read_text()
    capsys.readouterr()

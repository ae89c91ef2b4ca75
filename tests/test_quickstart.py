"""The demo, made small: every stage, on some scans of the included cohort."""

import runpy

from medvae.manifest import read_manifest, write_manifest

SMALL = [
    "training.steps=3", "training.validate_every=100000", "sampling.batch_size=8", "sampling.workers=0",
    "network.widths=[4,8,8]", "network.squeeze=4", "network.latent_size=8",
]  # fmt: skip
SCANS = {"train": 3, "validation": 2, "test": 1}
"""Healthy ones; a patient comes with them."""


def test_quickstart_goes_from_cohort_to_report(tmp_path, repository, capsys, hasty_bending):
    included = read_manifest(repository / "data_manifests" / "included_t1.json")
    chosen = [case for split, count in SCANS.items() for case in included.of_split(split, healthy=True)[:count]]
    chosen.append(included.case("patient07"))
    chosen = [
        case.model_copy(
            update={key: str(included.resolve(path)) for key in ("image", "label") if (path := getattr(case, key))}
        )
        for case in chosen
    ]
    cohort = write_manifest(included.model_copy(update={"cases": chosen}), tmp_path / "cohort.json")
    main = runpy.run_path(str(repository / "pipelines" / "quickstart.py"))["main"]
    main.__globals__["COHORT"] = cohort
    out = tmp_path / "demo"
    main(out, SMALL, repeats=1)

    table = (out / "table.md").read_text()
    for words in (
        "t1-2mm",
        "cevae_slice",
        "z_score_baseline",
        "normative_baseline",
        "intensity_baseline",
        "prevalence",
        "oracle",
        "realised FPR",
    ):
        assert words in table
    for method in ("t1-2mm", "cevae_slice"):
        drawn = {path.name for path in (out / "pictures" / method / "ms").iterdir()}
        assert drawn == {f"{case.id}.png" for case in chosen[-2:]}
        assert (out / "predictions" / method / "ms" / "patient07_label-lesion_mask.nii.gz").exists()
    said = "".join(capsys.readouterr().out.split())
    for name in ("ms", "inserted"):
        report = out / "report" / name / "report.html"
        assert str(report) in said
        text = report.read_text(encoding="utf-8")
        for words in ("t1-2mm", "normative_baseline", "Curves over the voxels"):
            assert words in text
    assert (out / "report" / "ms" / "cases" / "patient07.js").exists()

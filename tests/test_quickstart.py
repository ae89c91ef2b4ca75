"""The demo, made small: every stage on the included cohort."""

import subprocess
import sys

SMALL = [
    "training.steps=3", "training.validate_every=100000", "sampling.batch_size=8", "sampling.workers=0",
    "network.widths=[4,8,8]", "network.squeeze=4", "network.latent_size=8",
]  # fmt: skip


def test_quickstart_goes_from_cohort_to_table(tmp_path, repository):
    command = [
        sys.executable,
        repository / "pipelines" / "quickstart.py",
        "--out",
        tmp_path / "demo",
        "--repeats",
        1,
        *SMALL,
    ]
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "demo" / "table.md").read_text()
    for words in ("cevae_slice", "normative_baseline", "intensity_baseline", "prevalence", "oracle", "realised FPR"):
        assert words in table
    pictures = sorted(p.name for p in (tmp_path / "demo" / "pictures" / "ms").iterdir())
    assert "patient07.png" in pictures
    assert len(pictures) == 8
    assert (tmp_path / "demo" / "predictions" / "cevae_slice" / "ms" / "patient26_label-lesion_mask.nii.gz").exists()

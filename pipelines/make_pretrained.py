"""Train the detector that comes with medvae, and pack it.

    python pipelines/make_pretrained.py MANIFEST --cache CACHE --runs runs/t1 --out medvae/pretrained/t1-2mm
    python pipelines/make_pretrained.py MANIFEST --config configs/best_t1.yaml --out one
    python pipelines/make_pretrained.py MANIFEST --keep t1-2mm --config configs/cevae_t1.yaml --out more/t1-2mm
    python pipelines/make_pretrained.py MANIFEST --keep t1-2mm --weight 4 --weight 2 --weight 2 --weight 1 --out t1-2mm
    python pipelines/make_pretrained.py runs/flair/healthy/manifest.json --config configs/patients_flair.yaml \\
        --config configs/flair_bright.yaml --weight 1 --weight 1 --runs runs/flair --out medvae/pretrained/flair-2mm

MANIFEST is ``data_manifests/lists/healthy_t1.json`` in the folder of its data sets, or any other healthy T1 cohort.
Each ``--config`` is trained in a run of its own name in ``--runs``, one after the other. Interrupted training
continues, and existing runs of ``medvae train`` (for instance made in parallel) are used as they are. A config without
a network shares atlas and intensity scale of the first that has an atlas, trained or kept. ``--keep`` takes the members
of a finished detector as they are, with thresholds from this cohort; ``--kept-set`` changes options of their scores.
What ``--without`` names becomes no member: one that is kept no longer, or one that is trained because another goes on
from it (``training.start_from``, which names runs in runs/t1). Several members become an ensemble, those kept first.
Weights and normative maps are rounded to half precision before any threshold is set, so the packed detector is exactly
the calibrated one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from medvae.config import changed_config, read_config
from medvae.detection.detector import Detector, find_detector
from medvae.detection.ensemble import Ensemble, load_detector
from medvae.errors import MedvaeError
from medvae.files import sha256
from medvae.fitting import fit, sites_of
from medvae.manifest import Manifest, read_manifest
from medvae.preparation.cache import known_sha256
from medvae.preparation.prepare import prepare_healthy, prepare_training
from medvae.training.run_folder import record_cohort, refuse_learned

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STAGES = ("best_t1",)
"""Networks that go on to become members."""
MEMBERS = ("patients_small_t1", "best_t1_dark", "patients_t1", "best_t1_bright")
WEIGHTS = (4.0, 2.0, 2.0, 1.5)


def kept_members(
    folder: Path,
    members: Mapping[str, Detector],
    overrides: list[str],
    cohort: Manifest,
    people: list[str],
    cache: Path | None,
) -> dict[str, Detector]:
    """Members of the finished detector in a folder, with thresholds from the cohort's healthy validation scans.

    Raises
    ------
    MedvaeError
        If one learned from such a scan.
    """
    cases = cohort.of_split("validation", healthy=True)
    refuse_learned([folder], {case.id: cohort.images(case) for case in cases}, cohort.path)
    made = {}
    for name, member in members.items():
        _tell(name)
        config = changed_config(member.config, overrides)
        detector = replace(member, config=config)
        scans = prepare_healthy(cohort, "validation", config.preparation, scale=detector.scale, cache=cache)
        scores = [detector.score(scan) for scan in scans]
        thresholds = detector.recalibrated(scans, scores, people, sites_of(cohort))
        of = {"made_of": config.calibration.made_of}  # the cohort is as it was
        calibration = thresholds.config.calibration.model_copy(update=of)
        made[name] = replace(thresholds, config=thresholds.config.model_copy(update={"calibration": calibration}))
    return made


def main(
    manifest: Path,
    configs: list[Path],
    cache: Path | None,
    runs: Path,
    out: Path,
    *,
    keep: str | None = None,
    without: Sequence[str] = (),
    kept_set: list[str] | None = None,
    weights: Sequence[float] | None = None,
) -> None:
    """Make the runs and ``out``.

    Raises
    ------
    MedvaeError
        If a run cannot be made, or the configs differ in preparation.
    """
    cohort, wanted = read_manifest(manifest), [read_config(path) for path in configs]
    if len({config.name for config in wanted}) < len(wanted):
        raise MedvaeError("two of the configs have one name; each needs a name of its own.")
    folder = find_detector(keep) if keep else None
    kept = _members(folder) if folder else {}
    names = [*kept, *(config.name for config in wanted)]
    if unknown := [name for name in without if name not in names]:
        raise MedvaeError(f"--without {unknown[0]}: there is no such member; there are {', '.join(names)}.")
    if set(names) <= set(without):
        raise MedvaeError("--without: names all members, so nothing is left to pack.")
    kept = {name: member for name, member in kept.items() if name not in without}
    packed = [config for config in wanted if config.name not in without]
    with_network = [config for config in wanted if config.network is not None]
    fitted = {config.name: fit(config, cohort, runs / config.name, cache=cache, resume=True) for config in with_network}
    with_atlas = next((one for one in (*fitted.values(), *kept.values()) if one.atlas is not None), None)
    people = [case.subject_id for case in cohort.of_split("validation", healthy=True)]
    sites = sites_of(cohort)
    members = kept_members(folder, kept, kept_set or [], cohort, people, cache) if folder else {}
    for config in packed:
        named = config if len(packed) > 1 or members else config.model_copy(update={"name": out.name})
        _tell(config.name)
        trained = fitted.get(config.name)
        known = trained or with_atlas
        training, scale = prepare_training(
            cohort, config.preparation, scale=known.scale if known else None, cache=cache
        )
        members[config.name] = Detector.calibrate(
            named,
            trained.network if trained else None,
            training,
            prepare_healthy(cohort, "validation", config.preparation, scale=scale, cache=cache),
            scale=scale,
            subjects=people,
            sites=sites,
            compact=True,
            atlas=known.atlas if known else None,
            bias_field=known.bias_field if known else None,
            modalities=cohort.modalities,
        )
    if len(members) > 1:
        _tell(out.name)
        first = next(iter(members.values()))
        scans = prepare_healthy(cohort, "validation", first.config.preparation, scale=first.scale, cache=cache)
        Ensemble.calibrate(out.name, members, scans, people, sites, weights=weights).save(out)
    else:
        next(iter(members.values())).save(out)
    before = [folder] if folder else []
    before += [find_detector(c.training.start_from) for c in with_network if c.training.start_from]
    checksum = partial(known_sha256, cache=cache) if cache is not None else sha256
    record_cohort(out, cohort, checksum=checksum, before=before)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    counts = [len(cohort.of_split(split, healthy=True)) for split in ("train", "validation")]
    print(f"written: {out}, {size:.1f} MB; healthy scans: {counts[0]} training, {counts[1]} validation")


def _members(folder: Path) -> dict[str, Detector]:
    """The members of an ensemble, or the detector itself, by name."""
    found = load_detector(folder, device="cpu")
    return dict(found.members) if isinstance(found, Ensemble) else {found.config.name: found}


def _tell(name: str) -> None:
    print(f"Setting thresholds of {name}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="the healthy cohort")
    parser.add_argument(
        "--config", type=Path, action="append", help="once for each member (default: t1-2mm's; beside --keep none)"
    )
    parser.add_argument("--keep", metavar="DETECTOR", help="finished detector whose members are taken as they are")
    parser.add_argument("--without", action="append", default=[], metavar="NAME", help="not to be a member")
    parser.add_argument("--kept-set", action="append", metavar="KEY=VALUE", help="option of the kept members' scores")
    parser.add_argument("--weight", type=float, action="append", help="of a member's score, once for each, kept first")
    parser.add_argument("--cache", type=Path, help="folder of prepared scans")
    parser.add_argument("--runs", type=Path, default=Path("runs/t1"), help="folder of the run folders")
    parser.add_argument("--out", type=Path, required=True, help="the packed detector; its name becomes the model's")
    chosen = parser.parse_args()
    try:
        configs, without, weights = chosen.config, chosen.without, chosen.weight
        if not configs and not chosen.keep:
            configs = [CONFIGS / f"{name}.yaml" for name in STAGES + MEMBERS]
            without, weights = without or STAGES, weights or WEIGHTS
        main(
            chosen.manifest, configs or [], chosen.cache, chosen.runs, chosen.out, keep=chosen.keep, without=without,
            kept_set=chosen.kept_set, weights=weights,
        )  # fmt: skip
    except MedvaeError as error:
        sys.exit(f"make_pretrained: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped; run the same command again to go on.")

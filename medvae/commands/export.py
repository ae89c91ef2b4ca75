"""``medvae export``: a detector for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvae.commands.shared import say

EXAMPLE = "medvae export t1-2mm --to monai --out t1-2mm_bundle"
FORMATS = ("monai", "onnx", "torchscript")


def export(
    detector: Annotated[
        Path,
        typer.Argument(
            metavar="DETECTOR", help="Run or detector folder, or the name of a detector that comes with medvae."
        ),
    ],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="monai: all of it, as a bundle. onnx or torchscript: its networks.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Licence of the weights of an own detector, as CC-BY-4.0; it is written beside them."
        ),
    ] = None,
    scan: Annotated[
        Path | None,
        typer.Option(
            metavar="SCAN", help="onnx, torchscript: compare on tiles of this scan, not on those of the MNI152 brain."
        ),
    ] = None,
) -> None:
    r"""Write a detector for other programs: a MONAI bundle, or networks as ONNX or TorchScript.

    monai: a folder that MONAI runs on a folder of scans, with the maps of medvae predict:
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir MAPS

    onnx, torchscript: a file NAME.onnx or NAME.ts for the network of each member of an ensemble, for any number of
    tiles, and NAME.json, which says what the network expects: maps by channel, spacing, size, normalisation, licence.
    Before they are named, they are compared with PyTorch on tiles of a brain (largest difference below 0.0001). A
    network is shown prepared scans, and its output is not yet the anomaly map.

    ONNX, and running a bundle, need more packages: pip install "medvae-anomaly\[export]".
    """
    if to not in FORMATS:
        raise typer.BadParameter(f'--to "{to}" is none of {", ".join(FORMATS)}.')
    if to == "monai" and scan is not None:
        raise typer.BadParameter("--scan is for --to onnx and --to torchscript; a bundle is not compared.")
    from medvae.detection.ensemble import load_detector
    from medvae.exporting.networks_folder import export_networks, require_new
    from medvae.exporting.terms import terms_of

    require_new(out)
    loaded = load_detector(detector, device="cpu")
    terms = terms_of(detector, licence)
    if to == "monai":
        from medvae.exporting.bundle import INFERENCE, export_bundle

        export_bundle(loaded, detector, out, terms)
        say(f"bundle of {loaded.config.name}: {out}")
        say(f"licence of the weights: {terms.licence}")
        say(
            f"next: python -m monai.bundle run --config_file {out / INFERENCE} --bundle_root {out} --dataset_dir SCANS "
            f"--output_dir MAPS"
        )
        return
    written, left_out = export_networks(loaded, out, "onnx" if to == "onnx" else "torchscript", terms, scan=scan)
    for item in written:
        size = "tiles of any number and size" if item.any_size else "tiles of any number, and one size"
        say(f"{item.file}: differs from PyTorch by at most {item.largest_difference:.2g}; {size}")
    for name in left_out:
        say(f"note: {name} has no network, and is a part of the detector all the same", err=True)
    say(f"licence of the weights: {terms.licence}")

"""MRIcroGL: a command that shows the scan and the map above the threshold; it needs no extra files."""

from __future__ import annotations

from medvae.reporting.handoff import OpenedCase, Shell, Viewer


def _command(opened: OpenedCase, shell: Shell) -> str:
    case, (black, white) = opened.case, opened.window
    return (
        f"MRIcroGL {shell(opened.scan)} -dr {black:.5g} {white:.5g} "
        f"{shell(case.map)} -cm 4hot -dr {case.threshold:.3g} 1"
    )


MRICROGL = Viewer(name="MRIcroGL", command=_command)

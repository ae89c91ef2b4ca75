"""FSLeyes: a command that shows scan, map and outlined mask; it needs no extra files."""

from __future__ import annotations

from medvae.drawing import FADE, MAP_COLOURS, MASK_COLOUR, rgb
from medvae.reporting.handoff import OpenedCase, Shell, Viewer


def _command(opened: OpenedCase, shell: Shell) -> str:
    case, (black, white) = opened.case, opened.window
    fade, outline = f"{FADE * case.threshold:.3g}", " ".join(f"{channel / 255:.2f}" for channel in rgb(MASK_COLOUR))
    return (
        f"fsleyes {shell(opened.scan)} -dr {black:.5g} {white:.5g} {shell(case.map)} -cm {MAP_COLOURS} -dr 0 1 "
        f"-cr {fade} 1 -ma -mr {fade} {case.threshold:.3g} -a 85 {shell(case.mask)} -ot mask -mc {outline} -o"
    )


FSLEYES = Viewer(name="FSLeyes", command=_command)

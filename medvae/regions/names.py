"""Names of the regions and tissues of the atlas, by the numbers in its files."""

from __future__ import annotations

REGIONS = {
    1: "frontal lobe",
    2: "parietal lobe",
    3: "temporal lobe",
    4: "occipital lobe",
    5: "insula",
    6: "cingulate gyrus",
    7: "hippocampus",
    8: "amygdala",
    9: "caudate nucleus",
    10: "putamen",
    11: "pallidum",
    12: "nucleus accumbens",
    13: "basal forebrain",
    14: "thalamus",
    15: "ventral diencephalon",
    16: "internal capsule",
    17: "corpus callosum",
    18: "fornix",
    19: "brainstem",
    20: "cerebellum",
    21: "lateral ventricle",
    22: "third ventricle",
    23: "fourth ventricle",
}
"""Lobes hold their cortex and their white matter. Fluid in sulci belongs to the nearest region."""

WHITE, GREY, FLUID, BORDER = 1, 2, 3, 4
TISSUES = {WHITE: "white matter", GREY: "grey matter", FLUID: "fluid", BORDER: "border"}
"""The border is where no tissue is that of more than half of the people."""

CORTICAL = (1, 2, 3, 4, 5, 6, 7)
"""Regions whose grey matter is cortex; the hippocampus is, too."""
DEEP_GREY = (8, 9, 10, 11, 12, 13, 14)
"""Amygdala, basal ganglia, basal forebrain and thalamus."""
LATERAL_VENTRICLE, THIRD_VENTRICLE = 21, 22
INFRATENTORIAL = (19, 20, 23)
"""Brainstem, cerebellum, and the fluid between them."""

"""Which names are those of lesion maps: the rule by which nobody with an unpaired one is called healthy.

The name is cut into words at everything but letters and digits and where a small letter meets a capital one
(``T1LesionMask``). It is that of a *lesion map* if it has

1. "lesion", "tumour", "infarct", "metastas", "glioma" or "WMH" anywhere: nothing excuses these, or
2. a word for an annotation: mask, msk, seg, dseg, probseg, label, roi, voi, truth, gt, manual, consensus and the like,
   or one that ends in mask, msk or seg; unless the file is plainly anatomy:

   - a brain mask: brain next to that word (``brainmask``, ``brain_mask``, ``desc-brain_mask``), bet, skull, head,
     deface;
   - a word of anatomy: aseg, aparc, ribbon, tissue, GM, WM, CSF, ventricle, hippocampus, cord, atlas and so on;
   - a tissue segmentation (seg, dseg, probseg) that lies beside the tissue maps it was made with
     (``label-GM_probseg``, ``_pve_0``);
   - the output of a program that segments anatomy and nothing else, told from the name of a folder
     (``freesurfer``, ``fmriprep``, ``T1.anat``); but 1. counts there too;
   - a word that the user gave (--anatomy), which may also be one of 1.: ``--anatomy mask`` does not excuse
     ``lesion_mask``, ``--anatomy lesion`` does.

The words of a folder count as those of the name (``labels/02.nii.gz``), but for folders in which scans lie. "label" in
``label-GM`` is BIDS' key and no word; ``label-L`` is its code for a lesion.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath

from medvae.imaging.endings import scan_name

_LESION = re.compile(r"lesion|tumou?r|infarct|metasta[st]|gliom|wmh|l(?:ae|e|ä)sion")
_LESION_LABEL = re.compile(r"(?:^|_)label-L(?:_|$)")
_ANNOTATION = frozenset(re.findall(r"\w+", """
    mask masks msk msks seg segs segm dseg pseg probseg segmentation segmentations label labels lbl roi rois voi vois gt
    groundtruth truth manual consensus annotation annotations delineation contour
"""))  # fmt: skip
_TISSUE_MAP = frozenset(("seg", "dseg", "pseg", "probseg"))
_ANATOMY = frozenset(re.findall(r"\w+", """
    aseg aparc aparcaseg wmparc ribbon filled pveseg pve synthseg tissue tissues gm wm csf gray grey white cgm sgm scgm
    cbm cortex cortical subcortical parc parcellation atlas dkt dktatlas desikan destrieux aal schaefer anatomy
    anatomical hippocampus hippo amygdala thalamus caudate putamen pallidum hypothal ventricle ventricles cerebellum
    cerebellar brainstem spinal cord carpet fov background foreground skull scalp bone eye eyes head face deface
    defaced pydeface bet hdbet synthstrip freesurfer fsl fast fseg spm cat12
"""))  # fmt: skip
_BRAIN_MASK = re.compile(
    r"brain_?(?:mask|msk|seg|dseg|segmentation|extraction|tissue)|(?:mask|msk)_?(?:of_)?brain|desc_brain(?:_|$)"
)
_PROGRAMS = re.compile(
    r"(?:freesurfer|fastsurfer|recon-?all|[fs]mriprep|nibabies|infant-?fs|mriqc|qsiprep|xcp|aslprep|synthseg|synthstrip|"
    r"hd-?bet|cat12|c-?pac|mindboggle|ants-?cortical-?thickness|fsl-?anat|mninonlinear)(?![a-z])|.*\.anat$"
)
_ANATOMY_LABEL = re.compile(r"(?:^|_)label-(?:SC|BS|BG|NB|ST|B|S)(?:_|$)")
_TISSUE_BESIDE = re.compile(r"(?:^|[_-])(?:label-(?:GM|WM|CSF)(?:_|$)|pve_?\d|pveseg)")
_AROUND = re.compile(r"^(?:t1w?|t2w?|flair)(?=[a-z])|\d+$")
_ENDING = re.compile(r"(?:masks?|msk|seg)$")
_SMALL_TO_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z][a-z])")


def words_of(text: str) -> list[str]:
    """The words of a name, in small letters."""
    spread = _SMALL_TO_CAPITAL.sub("_", unicodedata.normalize("NFC", text))
    return [word for word in re.split(r"[\W_]+", spread.casefold()) if word]


def is_lesion_map(
    path: PurePath,
    beside: Iterable[str] = (),
    *,
    folders: Collection[str] = (),
    person: Sequence[str] = (),
    anatomy: Collection[str] = (),
) -> bool:
    """Whether a file has the name of a lesion map.

    Parameters
    ----------
    path
        Relative to the data set.
    beside
        Those of the other files of its folder, without endings, that `is_tissue_map` takes.
    folders
        The folders in ``path`` whose words count: those in which no scan lies.
    person
        The words of the person's name, which do not count.
    anatomy
        Words that make a name one of anatomy, as the user gave them.
    """
    name = scan_name(path.name)
    text = " ".join([*folders, name])
    words = _without(words_of(re.sub(r"(?:^|(?<=[_ ]))label-(?=\w)", "", text)), person)
    plain = "_".join(words)
    given = [words_of(word) for word in anatomy]
    rest = words
    for word in given:
        rest = _without(rest, word)
    if _LESION.search("_".join(rest)) or _LESION_LABEL.search(name):
        return True
    if len(rest) < len(words):
        return False
    told = _annotations(words)
    if not told:
        return False
    if _BRAIN_MASK.search(plain) or _ANATOMY_LABEL.search(name):
        return False
    if any({word, _ENDING.sub("", word)} & _ANATOMY for word in words):
        return False
    if any(_PROGRAMS.match(part.casefold()) for part in path.parts[:-1]):
        return False
    if told <= _TISSUE_MAP:
        start = re.split(r"(?i)(?:dseg|pseg|probseg|seg)", name)[0]
        return not any(other.startswith(start) for other in beside)
    return True


def is_tissue_map(name: str) -> bool:
    """Whether a name is that of a map of grey matter, white matter or CSF."""
    return bool(_TISSUE_BESIDE.search(name))


def ends_as_mask(name: str) -> bool:
    """Whether the last word of a name is one for a mask, a segmentation or a lesion."""
    last = words_of(name)[-1:]
    return bool(_annotations(last)) or any(_LESION.search(word) for word in last)


def _annotations(words: Sequence[str]) -> set[str]:
    """Those of the words that speak of an annotation."""
    bare = {_AROUND.sub("", word) or word for word in words}
    return {word for word in bare if word in _ANNOTATION or word.endswith(("mask", "msk", "seg"))}


def _without(words: list[str], person: Sequence[str]) -> list[str]:
    """The words, without those of a person's name wherever they stand together."""
    at, kept, length = 0, [], len(person)
    while at < len(words):
        if length and words[at : at + length] == list(person):
            at += length
        else:
            kept.append(words[at])
            at += 1
    return kept

"""Which MR sequence a series is, by the words of its description."""

from __future__ import annotations

import re

_WORD = re.compile(r"[^a-z0-9*+äöüß]+")
_T1 = re.compile(r"t1(?!rho).*|.*mp2?rage.*|.*spgr|bravo|.*mprage|3dt1.*")
_T2 = re.compile(r"t2.*|3dt2.*")
_AGENT = re.compile(
    r"\+c|c\+|ce|gd|gad.*|post|postc.*|km|mkm|contrast|kontrast.*|dotarem|t1w?(\+c|ce|c|gd|post)|.*gd\+?|\+gd|vueway"
)
_NO_AGENT = {"pre", "non", "no", "without", "ohne", "nativ", "native", "noncontrast", "w/o", "wo"}
_OTHERS = (
    (re.compile(r"swi.*|swan|minip|mip|.*venbold"), "SWI"),
    (re.compile(r".*adc.*"), "ADC"),
    (re.compile(r"dwi.*|diff.*|.*dti.*|trace.*|tracew|resolve|ep2d.*"), "DWI"),
    (re.compile(r"bold|fmri|rest(ing)?|field|fieldmap(ping)?|b0map"), "functional"),
    (re.compile(r"tof.*|mra|angio.*|.*venc.*"), "angiography"),
    (re.compile(r"asl|pcasl|perf.*|dsc|dce"), "perfusion"),
    (re.compile(r"map|maps|t1map|t2map|t1rho"), "a map"),
    (re.compile(r"t2(\*|star).*|hemo|medic|t2hemo"), "T2star"),
    (re.compile(r"stir|ciss|fiesta|drive"), "another T2"),
)
_NONE = {"", "none", "no", "nein", "n", "0"}


def sequence_of(description: str, protocol: str = "", contrast_agent: str = "") -> str | None:
    """The sequence as `medvae.modality` names it, or what it is instead; None if no word tells.

    The protocol's name is looked at where the description tells nothing. T1 is ``"T1c"`` after a contrast agent, which
    the header or a word names.
    """
    for text in (description, protocol):
        words = [word for word in _WORD.split(text.lower()) if word]
        name = _of_words(words)
        if name == "T1":
            told = any(map(_AGENT.fullmatch, words)) and _NO_AGENT.isdisjoint(words)
            return "T1c" if told or contrast_agent.strip().lower() not in _NONE else "T1"
        if name:
            return name
    return None


def _of_words(words: list[str]) -> str | None:
    t1 = any(map(_T1.fullmatch, words))
    for pattern, name in _OTHERS:
        if any(map(pattern.fullmatch, words)):
            return name
    if any("flair" in word for word in words) or ({"dark", "fluid"} <= set(words)):
        return "T1" if t1 else "FLAIR"  # T1 with suppressed fluid is called FLAIR by some vendors
    if t1:
        return "T1"
    if any(map(_T2.fullmatch, words)):
        return "T2"
    return "PD" if any(re.fullmatch(r"pdw?|proton", word) for word in words) else None

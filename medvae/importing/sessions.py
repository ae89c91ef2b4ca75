"""Which cases are scans of one person, told from their names where nobody said it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

MOST_SESSIONS = 12
"""More names than this with one beginning are people of a site rather than sessions of a person."""

_WORDS = (
    r"(?:[-_. ]+(?:(?:ses|sess|session|visit|v|t|tp|time|timepoint|scan|run|mr|exam|fu|follow[-_ ]?up|baseline|bl|base|"
    r"pre|post|m|month|y|yr|year|w|wk|week|d|day|test|retest|rep|repeat|acq)[-_ ]?\d*|"
    r"(?:19|20)\d{2}[-_.]?\d{2}[-_.]?\d{2}))+"
)
# A beginning without a digit may be a group: control_scan1 and control_scan2 are two people.
_SESSION = re.compile(rf"(?P<person>.*?\d.*?){_WORDS}", re.IGNORECASE)
_PERHAPS = re.compile(rf"(?P<person>.+?){_WORDS}|(?P<counted>.*\d.*?)(?:[-_. ]+\d{{1,2}}|[-_. ]*[a-d])", re.IGNORECASE)


def people_of_sessions(names: Iterable[str]) -> dict[str, str]:
    """The person of each name, as far as the names tell.

    ``sub-01`` for ``sub-01_ses-2``; ``P01`` for ``P01_baseline`` and ``P01_t1``, if at least two names begin so and end
    in a word for a session or in a date. Any other name is a person by itself.
    """
    from medvae.manifest import person_of  # pydantic comes with it

    names = list(names)
    found = {name: person for name in names if (person := person_of(name)) != name}
    for person, own in _sharing(_SESSION, [name for name in names if name not in found]).items():
        found |= dict.fromkeys(own, person)
    return {name: found.get(name, name) for name in names}


def perhaps_one_person(names: Iterable[str]) -> dict[str, list[str]]:
    """Names that may be those of one person, by their common beginning: ``P01_1`` and ``P01_2``, ``P01a`` and ``P01b``.

    Only those that `people_of_sessions` does not tell.
    """
    told = people_of_sessions(names)
    return _sharing(_PERHAPS, [name for name, person in told.items() if name == person])


def _sharing(pattern: re.Pattern[str], names: Iterable[str]) -> dict[str, list[str]]:
    """Names of each beginning that several share, the beginning itself among them (``P01``, ``P01_followup``)."""
    groups: dict[str, list[str]] = defaultdict(list)
    names = list(names)
    for name in names:
        match = pattern.fullmatch(name)
        if match:
            groups[next(filter(None, match.groups()))].append(name)
    for name in names:
        if name in groups:
            groups[name].insert(0, name)
    return {person: own for person, own in groups.items() if 2 <= len(own) <= MOST_SESSIONS}

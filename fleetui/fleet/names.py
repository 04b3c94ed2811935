"""Names that people give, in any script, and the slugs by which addresses carry them."""

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

from anyascii import anyascii
from django.urls import URLResolver, get_resolver
from django.utils.text import slugify

from fleetui.access import Invalid

# Whose addresses a kind of thing has: pages and API lie beside each other.
PLACES: dict[str, tuple[str | None, ...]] = {
    "lab": ("labs",),
    "station": ("labs", None, "stations"),
    "task": ("labs", None, "tasks"),
}


def checked_name(name: str, kind: str, limit: int = 80) -> str:
    """The name as it is stored: something to read, and nothing that a database or a page can't hold."""
    name = name.strip()
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        problem = f"The name {shown(name)} contains a character that is not readable text; type it again."
    elif not any(character.isprintable() and not character.isspace() for character in name):
        problem = f"A {kind} needs a name that can be read."
    elif len(name) > limit:
        problem = f"A {kind}'s name has at most {limit} characters; {shown(name)} has {len(name)}."
    else:
        return name
    raise Invalid(problem, {"name": problem})


def shown(name: str, length: int = 60) -> str:
    """The name as a sentence quotes it: short, and every odd character spelled out."""
    name = name if len(name) <= length else f"{name[:length]}…"
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in f"“{name}”")


def free_slug(name: str, kind: str, taken: Iterable[str], limit: int) -> str:
    """A slug that says the name as well as ASCII can, that no other has, and that is no page's own address.

    What is taken gets a number; where nothing of the name is left, the slug is the kind and a number.
    """
    refused = set(taken) | reserved_words(kind)
    slug = wanted = slugify(anyascii(name))[:limit].strip("-_")
    number = 1 if wanted else 0
    while not slug or slug in refused:
        number += 1
        slug = f"{wanted[: limit - len(str(number)) - 1] or kind}-{number}"
    return slug


@cache
def reserved_words(kind: str) -> frozenset[str]:
    """What stands in an address where this kind's slug would, by the addresses that there are: stations/new."""
    place = PLACES[kind]
    found: set[str] = set()
    for segments in _addresses():
        segments = segments[1:] if segments[:1] == ["api"] else segments
        if tuple(segments[: len(place)]) == place and len(segments) > len(place) and (word := segments[len(place)]):
            found.add(word)
    return frozenset(found)


def _addresses(resolver: URLResolver | None = None, before: str = "") -> Iterator[list[str | None]]:
    """Every address, as its segments; None stands for one that varies."""
    for entry in (resolver or get_resolver()).url_patterns:
        route = before + str(entry.pattern).lstrip("^").rstrip("$")
        if isinstance(entry, URLResolver):
            yield from _addresses(entry, route)
        else:
            yield [None if set(segment) & set("<({\\") else segment for segment in route.split("/")]

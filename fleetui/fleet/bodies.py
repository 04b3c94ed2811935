"""What stations, datasets and runs keep of a body, compared: whether what was made with one still fits the other."""

from typing import Any

from robots.embodiments import Embodiment, differences

Told = dict[str, Any]  # Embodiment.to_json(); {}: nobody has said yet


def read_body(told: Told) -> Embodiment | None:
    """None where nobody has said it."""
    try:
        return Embodiment.from_json(told) if told else None
    except ValueError:  # a row of before says a name alone
        return None


def what_changed(now: Told, then: Told) -> str:
    """What data and networks hang on that is no longer as it was, in words; empty where nothing is, or where one of the
    two isn't known.
    """
    if now == then:
        return ""
    here, before = read_body(now), read_body(then)
    if here is None or before is None:
        return ""
    if here.name != before.name:
        return f"it is {here.name}, and was {before.name}"
    return "; ".join(differences(here, before))

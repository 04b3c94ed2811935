"""How pages say numbers, times and states: one wording everywhere, matching static/js/format.js."""

from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django import template
from django.forms import BoundField
from django.template.context import Context
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import mark_safe

from fleetui.fleet.glossary import BY_FIELD, TERMS, Term
from fleetui.fleet.models import SHOWN_STATES, Lab
from robots import strict_json
from training.methods.registry import methods, signals_of

register = template.Library()


@register.filter
def words(value: Any) -> str:
    """A state or an ending as words."""
    if value in SHOWN_STATES:
        return SHOWN_STATES[value].words
    return str(value or "none").replace("_", " ").capitalize()


@register.simple_tag
def station_states() -> str:
    """The states of stations for the pages' scripts (static/js/format.js), which have no list of their own."""
    return strict_json.dumps(
        {
            state.name: {
                "words": state.words,
                "many": state.many or state.words.lower(),
                "moved_by": state.moved_by,
                "until_person": state.until_person,
            }
            for state in SHOWN_STATES.values()
        }
    )


@register.simple_tag
def policy_signals() -> str:
    """What policies may say of themselves, for the pages' scripts (static/js/signals.js): by key, in order."""
    declared = signals_of(methods().values())
    return strict_json.dumps({key: {**vars(signal)} for key, signal in declared.items()})


@register.simple_tag
def when(state: str, *states: str) -> str:
    """On an element that stands on the page in these states only; the page's script follows the state from there."""
    return format_html('data-when="{}"{}', " ".join(states), "" if state in states else mark_safe(" hidden"))


@register.simple_tag(takes_context=True)
def term(context: Context, slug: str, words: str = "") -> str:
    """A word that the glossary explains: hovering shows one sentence, the link leads to the rest."""
    if "lab" not in context:
        return words
    return _glossary_link(context["lab"], TERMS[slug], words or TERMS[slug].name)


@register.simple_tag(takes_context=True)
def term_of(context: Context, field: BoundField) -> str:
    """After a form field's help: the link to the term that the field is about, where there is one."""
    found = BY_FIELD.get(field.name)
    if found is None or "lab" not in context:
        return ""
    name, _, _ = found.name.partition(",")[0].partition(":")
    return format_html(" {}", _glossary_link(context["lab"], found, f"Glossary: {name}"))


def _glossary_link(lab: Lab, found: Term, words: str) -> str:
    url = f"{reverse('glossary', args=[lab.slug])}#{found.slug}"
    return format_html('<a class="term" href="{}"><abbr title="{}">{}</abbr></a>', url, found.short, words)


@register.filter
def hidden_address(address: str) -> str:
    """Enough to know a contact by, without the secrets in it."""
    return f"{address.partition(':')[0]}://…{address[-4:]}"


@register.filter
def percent(value: float | None) -> str:
    """Halves go up, as in the browser: the same 93 of 200 must not be 46 % here and 47 % there."""
    return "–" if value is None else f"{Decimal(100 * value).quantize(Decimal(1), ROUND_HALF_UP)} %"


@register.filter
def rate(evaluation: dict[str, Any]) -> str:
    """Of an evaluation."""
    return percent(evaluation["successes"] / evaluation["n"])


@register.filter
def at(rows: dict[Any, Any], key: Any) -> Any:
    """The row of a key, where there is one."""
    return rows.get(key)


@register.filter
def points(value: float | None) -> str:
    """A difference of two shares, in percentage points."""
    return "–" if value is None else f"{signed(100 * value)} points"


@register.filter
def signed(value: float | None) -> str:
    """A number with its sign, one digit behind the point."""
    if value is None:
        return "–"
    sign = "\u2212" if value < -0.05 else "+" if value >= 0.05 else "±"
    return f"{sign}{abs(value):.1f}"


@register.filter
def seconds(value: float | None) -> str:
    if value is None:
        return "–"
    if value < 90:
        return f"{value:.0f} s"
    if value < 5400:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h" if value < 129600 else f"{value / 86400:.0f} d"


@register.filter
def ago(moment: datetime | None) -> str:
    """Relative, with the absolute time on hover; the page's script keeps it current."""
    if moment is None:
        return "never"
    passed = (timezone.now() - moment).total_seconds()
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(),
        timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z"),
        "now" if passed < 5 else f"{seconds(passed)} ago",
    )


@register.filter
def short_number(value: float | None) -> str:
    """Four digits of it, without zeros that say nothing."""
    return "–" if value is None else f"{value:.4g}"


@register.filter
def called(name: str, titles: dict[str, str]) -> str:
    """A family as people call it; by its name where nobody knows more."""
    return titles.get(name, name)


@register.filter
def details(given: dict[str, Any]) -> str:
    """An act's details in words; what was not asked for isn't said."""
    details = [
        words(name).lower() if value is True else f"{words(name).lower()} {value}"
        for name, value in given.items()
        if value is not None and value is not False
    ]
    return ", ".join(details) or "–"


@register.filter
def success(evaluation: dict[str, Any] | None) -> str:
    """An evaluation metric: the rate, its n and its Wilson 95 % band."""
    if not evaluation or not evaluation.get("n"):
        return "not evaluated"
    rate = evaluation["successes"] / evaluation["n"]
    return f"{percent(rate)} of {evaluation['n']} (95 %: {percent(evaluation['low'])} to {percent(evaluation['high'])})"


@register.filter
def unlocalize_number(value: float | None) -> str:
    return f"{float(value or 0):.4f}"

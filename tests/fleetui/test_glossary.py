"""The glossary: one page with every term, and short links to it where a term stands on the other pages."""

import re
from html import unescape
from pathlib import Path

import pytest
from django.conf import settings

from fleetui.fleet.forms import PlanForm, StationForm, StationSettingsForm, TaskForm
from fleetui.fleet.glossary import BY_FIELD, TERMS
from fleetui.learning.forms import DatasetForm, GenerateForm
from fleetui.practice.forms import ParentForm, StationsForm
from training.methods.registry import methods

TEMPLATES = Path(settings.BASE_DIR, "templates")


def shown(lab, path, role="manager"):
    answer = lab.as_(role).get(f"/labs/{lab.slug}/{path}")
    assert answer.status_code == 200, path
    return answer.content.decode()


def test_every_term_has_its_anchor_and_its_words_on_the_page(lab):
    page = shown(lab, "glossary", "viewer")
    for term in TERMS.values():
        assert f'id="{term.slug}"' in page
        assert term.short in unescape(page) and term.more in unescape(page), term.slug


def test_the_words_that_newcomers_ask_for_are_there():
    said = " ".join(f"{term.name} {term.short} {term.more}".lower() for term in TERMS.values())
    asked = """d, s, k, p(success), nats, grounding, round, steps to go, reward model, success detector,
    detected success, true success, lease, epoch, intervention, staleness, fence, embodiment, robot-hour,
    events"""
    for word in map(str.strip, asked.split(",")):
        assert re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said), word


@pytest.mark.parametrize("path", ["", "tasks/", "runs/new?kind=sft", "runs/new?kind=improve", "effort/", "audit"])
def test_every_page_leads_to_it_and_its_links_lead_to_terms(lab, sft_run, path):
    page = shown(lab, path)
    address = f"/labs/{lab.slug}/glossary"
    assert f'href="{address}"' in page, "in the dialog of the keys"
    for slug in re.findall(rf'href="{address}#([^"]+)"', page):
        assert slug in TERMS, slug


def test_templates_name_terms_that_are_there():
    used = [
        slug
        for template in TEMPLATES.rglob("*.html")
        for slug in re.findall(r'{% term "([^"]+)"', template.read_text())
    ]
    assert used and set(used) <= set(TERMS)


def test_fields_that_terms_explain_are_fields_of_a_form():
    forms = (PlanForm, StationForm, StationSettingsForm, TaskForm, DatasetForm, ParentForm, StationsForm, GenerateForm)
    fields = {name for form in forms for name in form.base_fields}
    fields |= {name for method in methods().values() for name in method.recipe.FIELDS}
    assert set(BY_FIELD) <= fields

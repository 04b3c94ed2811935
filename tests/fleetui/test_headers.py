import pytest
from django.core.management import call_command
from django.test import Client

POLICY = {
    "default-src": {"'self'"},
    "style-src": {"'self'", "'unsafe-inline'"},
    "img-src": {"'self'", "data:", "blob:"},
    "object-src": {"'none'"},
    "base-uri": {"'none'"},
    "form-action": {"'self'"},
    "frame-ancestors": {"'self'"},
}


def policy_of(answer):
    parts = [part.split() for part in answer.headers["Content-Security-Policy"].split(";")]
    return {name: set(sources) for name, *sources in parts}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/login", 302),
        ("/", 302),
        ("/labs/east/", 200),
        ("/labs/nowhere/", 404),
        ("/api/labs/east/stations", 200),
        ("/api/labs/nowhere/stations", 404),
        ("/labs/east", 301),
    ],
)
def test_every_answer_says_what_a_page_may_load(lab, path, status):
    answer = lab.as_("viewer").get(path)
    assert (answer.status_code, policy_of(answer)) == (status, POLICY)


def test_whoever_is_not_logged_in_or_forges_a_form_gets_it_too(lab):
    visitor = Client(enforce_csrf_checks=True)
    assert policy_of(visitor.get("/labs/east/")) == POLICY
    refused = visitor.post("/login", {"username": "a", "password": "b"})
    assert refused.status_code == 403 and policy_of(refused) == POLICY


def test_no_page_has_a_script_of_its_own(lab):
    """Neither a nonce nor a hash would let it run."""
    for visitor, path in ((Client(), "/login"), (lab.as_("manager"), "/labs/east/")):
        scripts = visitor.get(path).content.decode().split("<script")[1:]
        assert scripts and all(
            " src=" in script.partition(">")[0] or "json" in script.partition(">")[0] for script in scripts
        )


def test_the_settings_are_right_to_django_csp():
    call_command("check", "--tag", "security")

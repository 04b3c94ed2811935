"""Nobody reaches the Dash app but by the Django session, from this site's own pages, and for a lab of one's own."""

import io
import json

import pytest
from django.contrib.auth.models import User
from django.test import Client

from fleetui.charts.asgi import guarded
from fleetui.fleet.actions import labs

pytestmark = pytest.mark.django_db
HOST = "localhost:8000"


@pytest.fixture
def researcher():
    user = User.objects.create_user("rita", password="a long password")
    labs.add_member(lab=labs.create_lab(slug="north", name="North"), person=user, role="researcher")
    labs.create_lab(slug="south", name="South")
    return user


def ask(path, user=None, query="", method="GET", body=None, origin=None, encoding="", binary=False):
    """One WSGI request; returns (status, headers, body)."""
    data = json.dumps(body).encode() if body is not None else b""
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8000",
        "HTTP_HOST": HOST,
        "wsgi.input": io.BytesIO(data),
        "wsgi.url_scheme": "http",
        "CONTENT_LENGTH": str(len(data)),
        "CONTENT_TYPE": "application/json",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.errors": io.StringIO(),
    }
    if encoding:
        environ["HTTP_ACCEPT_ENCODING"] = encoding
    if origin:
        environ["HTTP_ORIGIN"] = origin
    if user:
        client = Client()
        client.force_login(user)
        environ["HTTP_COOKIE"] = client.cookies.output(header="", sep=";").strip()
    answer = {}

    def start_response(status, headers, exc_info=None):
        answer["status"], answer["headers"] = int(status.split()[0]), dict(headers)

    content = b"".join(guarded(environ, start_response))
    return answer["status"], answer["headers"], content if binary else content.decode()


def offer(lab):
    """The callback that fills the list of runs."""
    return {
        "output": "..runs.options...runs.value..",
        "outputs": [{"id": "runs", "property": "options"}, {"id": "runs", "property": "value"}],
        "inputs": [{"id": "url", "property": "search", "value": f"?lab={lab}"}],
        "state": [{"id": "runs", "property": "value"}],
        "changedPropIds": ["url.search"],
    }


def call(lab, user, origin=f"http://{HOST}"):
    return ask("/charts/app/_dash-update-component", user, method="POST", body=offer(lab), origin=origin)


def test_a_page_without_session_leads_to_the_log_in():
    status, headers, _ = ask("/charts/app/", query="lab=north")
    assert status == 302
    assert headers["Location"] == "/login?next=/charts/app/%3Flab%3Dnorth"


def test_a_callback_without_session_is_refused():
    status, _, said = call("north", None)
    assert status == 401 and "log in" in said


def test_the_page_opens_in_a_frame_of_this_site_only(researcher):
    status, headers, page = ask("/charts/app/", researcher, query="lab=north")
    assert status == 200 and headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "http://" not in page and "https://" not in page


@pytest.mark.parametrize("origin", [None, "http://evil.example", "null"])
def test_a_callback_from_elsewhere_is_refused(researcher, origin):
    status, _, said = call("north", researcher, origin)
    assert status == 403 and "page of this site" in said


@pytest.mark.parametrize("runs", ["9" * 5000, "²", "-1", ",", "x"])
def test_runs_that_no_address_can_name_choose_nothing(researcher, runs):
    assert call(f"north&runs={runs}", researcher)[0] == 200


def test_own_lab_is_answered_and_another_is_not_found(researcher):
    assert call("north", researcher)[0] == 200
    status, _, said = call("south", researcher)
    assert status == 404 and "no lab &#39;south&#39;" in said

"""Behind a real nginx: a sub-path, TLS on a port that the proxy drops from Host, IPv6; set up as docs/proxy.md says."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.urls import get_resolver
from playwright.sync_api import expect

from fleetui import settings as settings_file
from tests.conftest import ROOT, free_port, new_fleet
from tests.nginx import MISSING, find_nginx

LAB = "labs/main"
PROXIED = """
    proxy_http_version 1.1;
    proxy_set_header Host {host};
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
    proxy_buffering off;
"""
SITE = "server {{ listen {listen}; client_max_body_size 65m; location {path} {{ proxy_pass {target}; {how} }} }}"


@contextmanager
def nginx(folder, *sites):
    """Debian's nginx, as this user and for these sites alone."""
    found = find_nginx()
    if found is None:
        pytest.fail(MISSING)
    binary, openssl = found
    certificate = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    certificate += ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    subprocess.run(certificate, check=True, capture_output=True)
    temporary = " ".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary}\n"
        f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;\n"
        "map $http_upgrade $connection_upgrade { default upgrade; '' ''; }\n" + "\n".join(sites) + "}\n"
    )
    process = subprocess.Popen([binary, "-c", folder / "nginx.conf", "-p", folder], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "pid").is_file():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """A fleet for https://localhost:PORT/fleet/ behind nginx, which drops what it can; and one more way to it, by plain
    http and with the path passed on as it is.
    """
    tls, plain = free_port(), free_port()
    public = f"https://localhost:{tls}/fleet/"
    with new_fleet(2, FLEETUI_URL=public, FLEETUI_HOST="::1") as fleet:
        target = f"http://127.0.0.1:{fleet.environment['PORT']}"
        how = PROXIED.format(host="$host")
        sites = (
            SITE.format(listen=f"{tls} ssl", path="/fleet/", target=f"{target}/", how=how),
            SITE.format(listen=plain, path="/fleet/", target=target, how=how),
        )
        with nginx(tmp_path_factory.mktemp("nginx"), *sites):
            yield {"fleet": fleet, "public": public, "plain": f"http://localhost:{plain}/fleet"}


@pytest.fixture(scope="module")
def page(behind, browser):
    """A manager who logged in through the proxy; nothing that his pages ask for may lie beside the sub-path."""
    context = browser.new_context(ignore_https_errors=True, base_url=behind["public"])
    page = context.new_page()
    page.strays = []
    page.on("request", lambda request: note_stray(page, request.url, behind["public"]))
    page.on("websocket", lambda socket: note_stray(page, socket.url, behind["public"].replace("https", "wss")))
    page.on("response", lambda answer: answer.status < 400 or page.strays.append(f"{answer.status} {answer.url}"))
    login = behind["fleet"].logins["manager"]
    page.goto("")
    assert page.url.startswith(f"{behind['public']}login?next=/fleet/")
    page.get_by_label("User name").fill(login["username"])
    page.get_by_label("Password").fill(login["password"])
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{behind['public']}{LAB}/")
    yield page
    context.close()
    assert page.strays == []


def note_stray(page, url, base):
    if not url.startswith((base, "data:", "blob:")):
        page.strays.append(url)


def test_the_wall_is_live_under_a_sub_path_and_a_port_that_the_proxy_drops(page):
    page.goto(f"{LAB}/")
    expect(page.locator("article.card .feed.has-frame")).to_have_count(2)
    page.locator("article.card[data-station=station-1] a").first.click()
    page.wait_for_url("**/fleet/labs/main/stations/station-1")
    page.get_by_role("button", name="Software stop").click()
    expect(page.locator("body")).to_have_attribute("data-station-state", "stopped")
    assert "stations/station-1" in page.url
    said = page.evaluate(
        """async () => {
            const names = performance.getEntriesByType("resource").map((entry) => entry.name);
            const { postApi } = await import(names.find((name) => /live\\.\\w+\\.js$/.test(name)));
            return postApi("labs/main/stations/station-1/command", { name: "stop" });
        }"""
    )
    assert said["ok"], said  # the stop's other way, by HTTP


def test_every_page_opens_and_its_links_stay_under_the_sub_path(page, behind):
    for path in ("attention/", "stations/", "runs/", "runs/new?kind=sft", "episodes/", "datasets/", "tasks/", "people"):
        page.goto(f"{LAB}/{path}")
        links = page.evaluate("[...document.querySelectorAll('a[href], form[action]')].map((e) => e.href || e.action)")
        assert [link for link in links if not link.startswith(behind["public"])] == [], path


def test_forms_are_taken_and_links_for_others_carry_port_and_sub_path(page, behind):
    page.goto(f"{LAB}/people")
    page.get_by_label("Role", exact=True).select_option("viewer")
    page.get_by_role("button", name="Make an invitation").click()
    link = page.locator("#link").inner_text()
    assert link.startswith(f"{behind['public']}invitations/")
    page.goto(link)
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill("Far arm")
    page.get_by_role("button", name="Add station").click()
    assert f"--server {behind['public'].rstrip('/')} --tokens" in page.locator("#command").inner_text()
    page.keyboard.press("Control+k")
    page.locator("#palette input").fill("station 2")
    expect(page.locator("#palette li")).to_have_count(1)
    page.keyboard.press("Enter")
    page.wait_for_url("**/fleet/labs/main/stations/station-2")


def test_charts_are_drawn_and_the_api_describes_itself(page):
    page.goto(f"{LAB}/charts/")
    expect(page.frame_locator("iframe").locator("#success .plot-container")).to_be_attached(timeout=60_000)
    page.goto("api/docs")
    expect(page.locator("main")).to_contain_text("GET /fleet/api/labs/{lab}/stations")
    schema = page.request.get("api/openapi.json").json()
    assert all(path.startswith("/fleet/api/") for path in schema["paths"])


def test_cookies_are_secure_and_go_to_the_sub_path_alone(page):
    cookies = {cookie["name"]: cookie for cookie in page.context.cookies()}
    assert all(cookies[name]["path"] == "/fleet/" for name in ("sessionid_fleet", "csrftoken_fleet"))
    assert all(cookie["path"].startswith("/fleet/") and cookie["secure"] for cookie in cookies.values())


def test_a_station_connects_under_the_sub_path(page, behind, tmp_path):
    """The proxy's plain way to it, which passes the path on as it is."""
    page.goto(f"{LAB}/stations/new")
    page.get_by_label("Name").fill("Proxied arm")
    page.get_by_role("button", name="Add station").click()
    row = {"station": "proxied-arm", "token": page.locator("#token").inner_text(), "world": "language_table", "seed": 5}
    (tmp_path / "tokens.json").write_text(json.dumps([row]))
    command = [sys.executable, "-m", "training", "practise", "--server", behind["plain"], "--tokens", "tokens.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(tmp_path / "host.txt", "wb") as output:
        host = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        expect(page.locator("#arrival")).to_contain_text("Proxied arm is connected", timeout=90_000)
    finally:
        host.send_signal(signal.SIGTERM)
        host.wait(60)


def test_logging_out_leads_back_to_the_log_in(page, behind):
    page.goto(f"{LAB}/")
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{behind['public']}login")
    assert page.request.get("charts/app/?lab=main").url.startswith(f"{behind['public']}login?next=/fleet/charts/app/")


def test_the_fleet_listens_on_ipv6_where_it_listens_beyond_this_machine(behind):
    port = behind["fleet"].environment["PORT"]
    for host in ("[::1]", "127.0.0.1"):
        assert httpx.get(f"http://{host}:{port}/healthz").json() == {"ok": True}


def test_a_proxy_on_an_ipv6_address_needs_no_setting(running_fleet, browser, tmp_path):
    with socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    how = PROXIED.format(host="$http_host")
    with nginx(tmp_path, SITE.format(listen=f"[::1]:{port}", path="/", target=running_fleet.url, how=how)):
        context = browser.new_context(base_url=f"http://[::1]:{port}")
        page = context.new_page()
        login = running_fleet.logins["researcher"]
        page.goto("/login")
        page.get_by_label("User name").fill(login["username"])
        page.get_by_label("Password").fill(login["password"])
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"**/{LAB}/")
        expect(page.locator("article.card .feed.has-frame").first).to_be_attached(timeout=60_000)
        page.goto(f"/{LAB}/charts/")
        expect(page.frame_locator("iframe").locator("#success .plot-container")).to_be_attached(timeout=60_000)
        context.close()


# The setting


@pytest.mark.parametrize(
    "url, parts",
    [
        ("https://fleet.example:8443/fleet/", ("https://fleet.example:8443", "fleet.example", "/fleet")),
        ("https://fleet.example:443", ("https://fleet.example", "fleet.example", "")),
        ("http://[::1]:8080/a/b", ("http://[::1]:8080", "[::1]", "/a/b")),
        ("", ("", "", "")),
    ],
)
def test_the_public_address_is_read(monkeypatch, url, parts):
    monkeypatch.setenv("FLEETUI_URL", url)
    assert parts == settings_file.read_environment().FLEETUI_URL


@pytest.mark.parametrize("url", ["fleet.example", "ftp://fleet.example/", "https://fleet.example/?a=1", "http://[::1/"])
def test_a_wrong_public_address_is_refused_with_a_sentence(monkeypatch, url):
    monkeypatch.setenv("FLEETUI_URL", url)
    with pytest.raises(ImproperlyConfigured, match=r"must look like https://fleet.example:8443/fleet/") as refusal:
        settings_file.read_environment()
    assert f"FLEETUI_URL={url!r}" in str(refusal.value)


def test_a_sub_path_that_looks_like_the_fleets_own_addresses_is_refused(monkeypatch):
    routes = {re.split(r"[/<]", str(pattern.pattern).lstrip("^"))[0] for pattern in flat(get_resolver().url_patterns)}
    assert {*routes, "static", "ws", "charts"} - {""} == set(settings_file.FIRST_NAMES)
    monkeypatch.setenv("FLEETUI_URL", "https://fleet.example/labs/")
    with pytest.raises(ImproperlyConfigured, match=r"must not begin like an address of the fleet's own .*, labs, "):
        settings_file.read_environment()


def flat(patterns):
    for pattern in patterns:
        if str(pattern.pattern):
            yield pattern
        elif hasattr(pattern, "url_patterns"):
            yield from flat(pattern.url_patterns)

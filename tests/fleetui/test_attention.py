"""Help requests: a need becomes one row, people look after it, it closes by itself, and those elsewhere are told."""

import asyncio
import threading

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, transaction

from fleetui import access
from fleetui.fleet import jobs, selectors
from fleetui.fleet.actions import attention, control, reports
from fleetui.fleet.models import Contact, HelpRequest
from fleetui.live import telemetry as live_telemetry
from robots.attention import need_of
from tests.fleetui.test_live import arm, browser, eventually_in_thread, telemetry


def fallen(reason="the blue cube is off the table"):
    return need_of(state="needs_person", reason=reason, state_for_s=1.0)


def doubtful(left=4000):
    return need_of(state="practising", reason="", state_for_s=1.0, p_success=0.02, step=5, limit=5 + left, step_s=0.2)


def note(lab, need, episode=""):
    return attention.note_need(station=lab.stations[0], need=need, episode=episode)


def test_a_need_is_one_row_however_often_it_is_said_and_closes_when_it_has_gone(lab):
    first = note(lab, fallen())
    assert note(lab, fallen()) == first and HelpRequest.objects.count() == 1
    assert selectors.wall_cards(lab.row)[0]["help"]["reason"] == "the blue cube is off the table"
    note(lab, None)
    first.refresh_from_db()
    assert first.closed_at and first.outcome == "needed nobody any more" and first.closed_by is None
    assert selectors.station_card(lab.stations[0])["help"] is None
    note(lab, None)  # nothing is open, nothing happens
    assert HelpRequest.objects.count() == 1


def test_who_helped_is_kept(lab):
    lab.connect()
    request = note(lab, fallen())
    control.command_station(
        user=lab.users["supervisor"], lab_slug=lab.slug, station_slug=lab.stations[0].slug, name="reset"
    )
    note(lab, None)
    request.refresh_from_db()
    assert (request.outcome, request.closed_by) == ("reset", lab.users["supervisor"])


def test_a_worse_need_takes_its_place_and_has_to_be_seen_anew(lab):
    request = note(lab, doubtful(), "00000000-0000-0000-0000-000000000001")
    assert request.help_by is not None and request.severity == "info"
    attention.take_help(request=request, user=lab.users["supervisor"])
    worse = note(lab, fallen())
    request.refresh_from_db()
    assert request.closed_at and request.outcome == "Another need took its place: the blue cube is off the table"
    assert worse.taken_by == lab.users["supervisor"], "who is on the way stays on the way"
    assert worse.acknowledged_by is None


def test_one_person_takes_it(lab):
    request = note(lab, fallen())
    attention.take_help(request=request, user=lab.users["supervisor"])
    attention.take_help(request=request, user=lab.users["supervisor"])  # twice is once
    with pytest.raises(access.Conflict, match="east-supervisor has taken it already"):
        attention.take_help(request=request, user=lab.users["manager"])
    attention.release_help(request=request, user=lab.users["manager"])
    assert attention.take_help(request=request, user=lab.users["manager"]).taken_by == lab.users["manager"]
    with pytest.raises(access.Invalid, match="few words"):
        attention.close_help(request=request, user=lab.users["manager"], outcome="  ")
    attention.close_help(request=request, user=lab.users["manager"], outcome="a cable was loose")
    with pytest.raises(access.Conflict, match="closed already: a cable was loose"):
        attention.acknowledge_help(request=request, user=lab.users["manager"])


def test_of_two_who_take_it_at_once_one_has_it(lab):
    request = note(lab, fallen())
    taken, refused, ready = [], [], threading.Barrier(2)

    def take(role):
        try:
            ready.wait()
            attention.take_help(request=HelpRequest.objects.get(pk=request.pk), user=lab.users[role])
            taken.append(role)
        except access.Conflict:
            refused.append(role)
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=[role]) for role in ("supervisor", "manager")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(refused) == 1
    request.refresh_from_db()
    assert request.taken_by == lab.users[taken[0]]


def test_the_database_holds_one_open_request_a_station(lab):
    request = note(lab, fallen())
    request.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        request.save()


def test_a_station_that_went_while_it_had_work_calls(lab, improve_run):
    lab.connect()
    station = lab.stations[0]
    reports.disconnect_station(station=station, reason="the connection was lost")
    attention.note_absence(station=station)
    assert HelpRequest.objects.get(station=station).kind == "offline"
    lab.connect(station)
    attention.note_absence(station=station)  # it is here: nothing more to say
    free = lab.add_station("Arm 9")
    attention.note_absence(station=free)
    assert not free.help_requests.exists(), "nobody misses a station without work"


@pytest.mark.parametrize("act", ["acknowledge", "take", "release", "close"])
def test_only_those_who_act_on_stations_look_after_requests(lab, other_lab, act):
    request = note(lab, fallen())
    body = {"outcome": "done"} if act == "close" else {}
    for role in ("viewer", "researcher"):
        assert lab.call(role, "post", f"help/{request.pk}/{act}", body).status_code == 403
    assert other_lab.call("manager", "post", f"help/{request.pk}/{act}", body).status_code == 404
    assert lab.call("supervisor", "post", f"help/{request.pk}/{act}", body).status_code == 200


def test_open_requests_come_by_what_a_visit_saves(lab):
    attention.note_need(station=lab.stations[1], need=fallen())
    note(lab, doubtful(left=800))
    kinds = [row["kind"] for row in lab.call("viewer", "get", "help").json()["items"]]
    assert kinds == ["table", "unlikely"]


# Live


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"reason": "the cube failed to stay", "code": "table"}, "table"),
        ({"reason": "in other words", "code": "fault"}, "fault"),
        ({"reason": "a step failed: the motor is hot"}, "fault"),
    ],
)
async def test_a_need_is_known_by_its_code_and_without_one_by_its_words(lab, monkeypatch, fields, kind):
    monkeypatch.setattr(live_telemetry, "SETTLED_S", 0)
    station = await arm(lab)
    await station.say(**telemetry("needs_person", p_success=None, **fields))
    await eventually_in_thread(HelpRequest.objects.filter(closed_at=None).exists)
    assert (await HelpRequest.objects.aget(closed_at=None)).kind == kind
    await station.disconnect()


async def test_telemetry_opens_and_closes_a_request_and_the_wall_hears_of_it(lab, monkeypatch):
    monkeypatch.setattr(live_telemetry, "SETTLED_S", 1000)
    station, page = await arm(lab), await browser(lab)
    await page.say(subscribe="wall", lab=lab.slug)
    await page.hear(lambda message: message.get("type") == "snapshot")
    wanting = telemetry("needs_person", reason="the blue cube is off the table", p_success=None)
    await station.say(**wanting)
    await page.hear(lambda message: message.get("data", {}).get("card", {}).get("state") == "needs_person")
    await asyncio.sleep(0.2)
    assert not await sync_to_async(HelpRequest.objects.exists)(), "a station that resets itself at once calls nobody"
    monkeypatch.setattr(live_telemetry, "SETTLED_S", 0)
    await station.say(**wanting)

    def called(message):
        return "help" in message.get("data", {}).get("card", {})

    card = (await page.hear(called))["data"]["card"]
    assert (card["slug"], card["help"]["kind"], card["help"]["act"]) == ("arm-1", "table", "reset")
    await station.say(**telemetry())
    assert (await page.hear(called))["data"]["card"]["help"] is None
    await station.disconnect(), await page.disconnect()


async def test_a_request_that_was_open_when_the_server_died_closes_once_the_station_speaks(lab):
    await sync_to_async(note)(lab, fallen())
    station = await arm(lab)
    await station.say(**telemetry())
    await eventually_in_thread(lambda: not HelpRequest.objects.filter(closed_at=None).exists())
    await station.disconnect()


# People elsewhere


@pytest.fixture
def contact(lab):
    return attention.add_contact(
        lab=lab.row,
        user=access.SERVER,
        name="night shift",
        address="json://localhost:1/hook",
        severity="error",
        after_s=0,
    )


@pytest.mark.parametrize("address", ["nonsense", "syslog://", "file:///etc/passwd", "slack://"])
def test_an_address_that_reaches_nobody_is_refused(lab, address):
    with pytest.raises(access.Invalid, match="can't be sent"):
        attention.add_contact(lab=lab.row, user=access.SERVER, name="x", address=address, severity="error", after_s=0)


def test_a_request_is_told_of_unless_somebody_has_taken_it_up(lab, contact, monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(
        "fleetui.fleet.actions.attention.celery_app.send_task",
        lambda name, args, countdown: asked.append((args, countdown)),
    )
    monkeypatch.setattr(jobs, "write_to", lambda contact, title, body: told.append(body))
    note(lab, doubtful())
    assert not asked, "information is not worth a message"
    request = note(lab, fallen())
    assert asked == [([contact.pk, request.pk], 0)]
    jobs.tell_contact(*asked[0][0])
    assert len(told) == 1 and "the blue cube is off the table" in told[0]
    attention.acknowledge_help(request=request, user=lab.users["supervisor"])
    jobs.tell_contact(*asked[0][0])
    assert len(told) == 1


def test_a_message_that_does_not_go_out_is_said(lab, contact):
    assert jobs.write_to(contact, "title", "body") is False
    assert "not accepted" in Contact.objects.get().error


# The page, as it works without a script


def test_the_page_takes_closes_and_refuses_with_a_sentence(lab):
    page, client = f"/labs/{lab.slug}/attention/", lab.as_("supervisor")
    assert "No station needs a person" in client.get(page).content.decode()
    request = note(lab, fallen())
    assert "the blue cube is off the table" in client.get(page).content.decode()
    assert client.post(f"{page}{request.pk}/take").status_code == 302
    shown = lab.as_("manager").post(f"{page}{request.pk}/take", follow=True).content.decode()
    assert "east-supervisor has taken it already" in shown
    shown = client.post(f"{page}{request.pk}/close", {"outcome": ""}, follow=True).content.decode()
    assert "Say in a few words" in shown
    client.post(f"{page}{request.pk}/close", {"outcome": "it was a shadow"})
    assert "it was a shadow" in client.get(page).content.decode()
    assert lab.as_("viewer").post(f"{page}{request.pk}/acknowledge").status_code == 403
    assert client.post(f"{page}{request.pk}/dance").status_code == 404
    for number in ("x", "9" * 30):
        assert client.post(f"{page}{number}/take").status_code == 404


def test_contacts_are_a_managers_and_their_secrets_stay_out_of_the_page(lab):
    page = f"/labs/{lab.slug}/attention/"
    given = {
        "name": "night",
        "address": "json://ann:geheim@localhost:1",
        "severity": "error",
        "after_s": "5",
    }
    assert lab.as_("supervisor").post(f"{page}contacts", given).status_code == 403
    assert lab.as_("manager").post(f"{page}contacts", given | {"address": "nonsense"}).status_code == 422
    assert lab.as_("manager").post(f"{page}contacts", given).status_code == 302
    shown = lab.as_("manager").get(page).content.decode()
    assert "night" in shown and "geheim" not in shown
    again = lab.as_("manager").post(f"{page}contacts", given).content.decode()
    assert "already has a contact" in again
    contact = Contact.objects.get()
    assert lab.as_("supervisor").post(f"{page}contacts/{contact.pk}/remove").status_code == 403
    lab.as_("manager").post(f"{page}contacts/{contact.pk}/remove")
    assert not Contact.objects.exists()

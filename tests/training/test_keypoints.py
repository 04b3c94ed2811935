"""Keypoints: who proposes them, what goes wrong, and the reward along them."""

import base64
import io
import json
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from robots.demonstrators import collect_demonstrations
from robots.embodiments import ENVIRONMENT_STATE, STATE
from robots.episodes import rows_of
from robots.worlds import make_world
from robots.worlds.gripper_table import GRIPPER_TABLE, HOME, VIEW
from robots.worlds.language_table import LANGUAGE_TABLE
from training import keypoints
from training.keypoints import (
    GRID,
    Asked,
    HTTPProposer,
    KnownPositions,
    Noisy,
    Way,
    WordsAndColours,
    dense_rewards,
    hand_of,
    middle_of,
    on_plane,
    potential,
)

SEEN = {STATE: np.array([0.0, 0.1, 0.0], np.float32), ENVIRONMENT_STATE: np.array([-0.2, 0.1, 0.3, -0.1], np.float32)}
ASKED = Asked(GRIPPER_TABLE, "move the puck to the goal", SEEN)


def pictured(asked=ASKED):
    world = make_world("gripper_table", 0)
    world.set_observation(asked.observation)
    return replace(asked, picture=world.render("front", VIEW.width, VIEW.height), view=VIEW)


def test_words_and_known_positions_say_what_goes_where():
    assert KnownPositions().propose(ASKED).points == (pytest.approx((-0.2, 0.1)), pytest.approx((0.3, -0.1)))
    assert KnownPositions().propose(replace(ASKED, instruction="carry it back home")).points[1] == HOME
    assert KnownPositions().propose(replace(ASKED, instruction="sing")) is None


def test_words_and_colours_find_them_in_the_picture_alone():
    found = WordsAndColours().propose(pictured())
    assert np.abs(np.array(found.points) - ((-0.2, 0.1), (0.3, -0.1))).max() < 0.02
    assert WordsAndColours().propose(ASKED) is None, "without a picture there is nothing to see"
    grey = replace(pictured(), picture=np.full((240, 320, 3), 90, np.uint8))
    assert WordsAndColours().propose(grey) is None


def test_noise_hangs_on_the_attempt_alone_and_is_wrong_as_often_as_it_says():
    noisy = Noisy(KnownPositions(), 0.2, 0.01, 3)
    assert noisy.propose(ASKED) == noisy.propose(ASKED)
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        seen = {**SEEN, ENVIRONMENT_STATE: rng.uniform(-0.4, 0.4, 4).astype(np.float32)}
        told, right = (each.propose(replace(ASKED, observation=seen)).points for each in (noisy, KnownPositions()))
        wrong += np.abs(np.array(told) - right).max() > 0.06
    assert 0.13 < wrong / 400 < 0.27


# Over HTTP


class Model(BaseHTTPRequestHandler):
    answer, asked = b"", []

    def do_POST(self):
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.answer)

    def log_message(self, *_):
        """Nothing."""


def said(text):
    return json.dumps({"choices": [{"message": {"content": text}}]}).encode()


@pytest.fixture
def model():
    Model.asked = []
    server = HTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_a_model_answers_with_cells_of_the_grid_and_is_asked_once(model):
    Model.answer = said('Here: {"grasp": "B4", "waypoints": ["D4"], "target": "F5", "confidence": 0.8}')
    notes, proposer = [], None
    proposer = HTTPProposer(model, "any", notes.append)
    found = proposer.propose(pictured())
    assert found.points == tuple(on_plane(VIEW, middle_of(cell)) for cell in ("B4", "D4", "F5"))
    assert found.confidence == 0.8 and proposer.propose(pictured()) == found and len(Model.asked) == 1 and not notes
    text, image = Model.asked[0]["messages"][0]["content"]
    assert "move the puck to the goal" in text["text"]
    drawn = Image.open(io.BytesIO(base64.b64decode(image["image_url"]["url"].split(",")[1])))
    assert drawn.size == (320, 240)
    assert np.abs(np.array(drawn).astype(int) - pictured().picture).max() > 100, "the grid is drawn on it"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        said("I can't."),
        said('{"grasp": "B4"}'),
        said('{"grasp": "Z4", "target": "B1"}'),
        said('{"grasp": "B99", "target": "B1"}'),
        said('{"grasp": 7, "target": null}'),
        said('{"grasp": "B4", "target": "B1", "waypoints": ' + json.dumps(["A1"] * 30) + "}"),
        said('{"grasp": "B4", "target": "B1", "confidence": 7}'),
        b"[" * 200_000,
    ],
)
def test_nonsense_of_a_model_is_no_proposal_and_a_note(model, answer):
    Model.answer, notes = answer, []
    assert HTTPProposer(model, "any", notes.append).propose(pictured()) is None
    assert len(notes) == 1 and notes[0].startswith("No keypoints for 'move the puck to the goal': ")


def test_a_model_that_never_answers_or_is_not_there_is_no_proposal_and_a_note(monkeypatch):
    monkeypatch.setattr(keypoints, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        notes = []
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        assert HTTPProposer(address, "any", notes.append).propose(pictured()) is None
    assert HTTPProposer(address, "any", notes.append).propose(pictured()) is None
    assert HTTPProposer("", "any", notes.append).propose(pictured()) is None
    assert len(notes) == 3


@pytest.mark.parametrize("cell", ["", "A", "A0", f"A{GRID + 1}", "?3", "AA", None, 3])
def test_what_is_no_cell_is_refused(cell):
    with pytest.raises(ValueError, match="there is no cell"):
        middle_of(cell)


# The reward


def test_the_way_leads_to_the_grasp_point_and_from_there_on_to_the_target():
    way = Way([(0.0, 0.0), (0.0, 0.3), (0.4, 0.3)])
    assert way.left(np.array([-0.1, 0.0]), False) == pytest.approx(0.8)
    assert way.left(np.array([-0.1, 0.0]), True) == pytest.approx(0.8), "closed, but far from what shall be grasped"
    assert way.left(np.array([0.0, 0.0]), True) == pytest.approx(0.7)
    assert way.left(np.array([0.0, 0.3]), True) == pytest.approx(0.4)
    assert way.left(np.array([0.2, 0.3]), True) == pytest.approx(0.2), "a way point that was passed is passed"
    assert way.left(np.array([0.2, 0.3]), False) == pytest.approx(np.hypot(0.2, 0.3) + 0.7), "it was lost"
    way.left(np.array([0.0, 0.0]), True), way.left(np.array([0.4, 0.3]), True)
    assert way.left(np.array([0.4, 0.3]), False) == way.left(np.array([0.0, 0.0]), False) == 0, "it was brought"


def test_a_demonstration_earns_what_its_way_is_long_less_its_costs():
    episode = collect_demonstrations(["place"], 1, 3)[0]
    first = rows_of(episode.observations, 0)
    points = KnownPositions().propose(Asked(GRIPPER_TABLE, episode.instruction, first)).points
    phi = potential(GRIPPER_TABLE, episode.observations, points)
    rewards = dense_rewards(phi, 0.5, 0.01)
    assert len(rewards) == episode.steps
    assert rewards.sum() == pytest.approx(0.5 * (phi[-1] - phi[0]) - 0.01 * episode.steps) and phi[-1] > phi[0]


def test_a_body_that_does_not_tell_its_hand_is_refused_by_name():
    with pytest.raises(ValueError, match="language_table doesn't tell whether its hand holds anything"):
        hand_of(LANGUAGE_TABLE, {STATE: np.zeros((1, 4), np.float32)})

"""Keypoints of an attempt: where to grasp, where to go, and the dense reward that they make (KAGI).

Stands beside a station's policy, which asks for a proposal when an attempt begins and shows it, and before the update,
which rewards the attempt by the proposal that it was made with.

    phi(s) = - length left along the polyline, from the hand's nearest point on what is next     half table widths
    r      = weight (phi(s') - phi(s)) - cost                                                    each step

What is next is the grasp point until the hand holds something there, then the way points. Keypoints are metres on the
table. A proposer may find nothing: then the sparse reward is all there is.

After KAGI (Lee et al., arXiv 2407.10341): keypoints by a vision-language model, and the sparse reward where success is
told, the dense one elsewhere. The shape of phi is ours: the paper's is not in what we could read.
"""

import base64
import hashlib
import http.client
import io
import json
import math
import os
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageDraw

from robots import strict_json
from robots.embodiments import ENVIRONMENT_STATE, HAND, STATE, Camera, Embodiment, Observation
from robots.tasks import TASKS, InstructionError, Moves

Point = tuple[float, float]  # metres on the table, or shares of a picture's width and height

HALF_WIDTH = 0.5  # metres: the unit of phi
GRASPED_WITHIN = 0.06  # metres from the grasp point, at which a hand that closes has taken what lies there
BROUGHT_WITHIN = 0.04  # metres from the target, at which what is let go is where it belongs
CLOSED_BELOW = 60.0  # % of an opening, at which a gripper that tells no hold counts as closed
LONGEST_WAY = 16  # points
TIMEOUT_S = 10.0  # of a model that is asked over HTTP
GRID = 8  # cells of a picture's side that it is asked by
LARGEST_ANSWER = 10**5  # bytes


@dataclass(frozen=True)
class Proposal:
    """Where to grasp and where to bring it, on the table."""

    points: tuple[Point, ...]  # metres: the grasp point, way points, the target
    confidence: float = 1.0
    source: str = "classifier"  # | "human", who moved one


@dataclass(frozen=True)
class Asked:
    """What a proposer is shown of an attempt: its words, the first observation and, where there is one, a picture."""

    embodiment: Embodiment
    instruction: str
    observation: Observation  # of one frame
    picture: np.ndarray | None = None  # uint8 [H, W, 3]
    view: Camera | None = None  # that took it


class Proposer(Protocol):
    """Finds keypoints; None where it finds none."""

    immediate: bool  # whether it answers at once, so that an attempt's first step can wait for it

    def propose(self, asked: Asked) -> Proposal | None:
        """Of one attempt."""
        ...


def family_of(instruction: str, embodiment: Embodiment) -> tuple[Moves, Mapping[str, str]] | None:
    """What the instruction wants moved where, as the family says whose grammar yields it, and what its slots name; None
    where none does.
    """
    for family in TASKS.values():
        if family.embodiment == embodiment.name and family.moves is not None:
            try:
                return family.moves, family.parse(instruction).target
            except InstructionError:
                continue
    return None


class KnownPositions:
    """By the words, and by where the body is told that its objects lie."""

    immediate = True

    def propose(self, asked: Asked) -> Proposal | None:
        """As of Proposer."""
        return _from_words(asked, lambda name: self._place(asked, name))

    @staticmethod
    def _place(asked: Asked, name: str) -> Point | None:
        names = asked.embodiment.observation[ENVIRONMENT_STATE].names if asked.embodiment.tracked else ()
        if f"{name}.x" not in names:
            return None
        told = asked.observation[ENVIRONMENT_STATE]
        return float(told[names.index(f"{name}.x")]), float(told[names.index(f"{name}.y")])


# Hue in degrees from and to, of the colours that objects are named by.
HUES = {"red": (-20, 20), "green": (90, 170), "blue": (190, 260), "yellow": (40, 70)}


class WordsAndColours:
    """By the words, and by blobs of the named objects' colours in a picture from above."""

    immediate = True

    def propose(self, asked: Asked) -> Proposal | None:
        """As of Proposer."""
        if asked.picture is None or asked.view is None or not asked.view.plane:
            return None
        return _from_words(asked, lambda name: self._blob(asked, name))

    @staticmethod
    def _blob(asked: Asked, name: str) -> Point | None:
        colours = [kind.colour for kind in asked.embodiment.objects if kind.name == name]
        assert asked.picture is not None and asked.view is not None
        if not colours or colours[0] not in HUES:
            return None
        pixels = asked.picture.astype(np.float32) / 255
        most, least = pixels.max(2), pixels.min(2)
        spread = np.maximum(most - least, 1e-6)
        red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
        hue = np.where(
            most == red,
            (green - blue) / spread,
            np.where(most == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
        )
        low, high = HUES[colours[0]]
        degrees = (60 * hue - low) % 360 + low
        rows, columns = np.nonzero((degrees <= high) & (spread / np.maximum(most, 1e-6) > 0.5) & (most > 0.2))
        if len(rows) < 4:
            return None
        height, width = most.shape
        share = (float(np.median(columns) + 0.5) / width, float(np.median(rows) + 0.5) / height)
        return on_plane(asked.view, share)


def _from_words(asked: Asked, place_of: Callable[[str], Point | None]) -> Proposal | None:
    found = family_of(asked.instruction, asked.embodiment)
    if found is None:
        return None
    moves, target = found
    thing, goal = moves(target)
    grasp, end = place_of(thing), place_of(goal) if isinstance(goal, str) else goal
    return None if grasp is None or end is None else Proposal((grasp, end))


def proposer_of(name: str, note: Callable[[str], None]) -> Proposer:
    """By the name that a recipe gives. The address of a model that is asked over HTTP comes from the environment of
    whoever asks, FLEETUI_KEYPOINTS_URL, and the model's name from FLEETUI_KEYPOINTS_MODEL: no file may name one.
    """
    if name == "known_positions":
        return KnownPositions()
    if name == "words_and_colours":
        return WordsAndColours()
    address, model = os.environ.get("FLEETUI_KEYPOINTS_URL", ""), os.environ.get("FLEETUI_KEYPOINTS_MODEL", "")
    if not address.startswith(("http://", "https://")):
        note(
            "Keypoints are asked for over HTTP, and FLEETUI_KEYPOINTS_URL names no address; set it for the worker and "
            "for the station host. Until then attempts have the sparse reward alone."
        )
    return HTTPProposer(address, model, note)


class Noisy:
    """Another proposer's keypoints, moved at random, and in a share of attempts wrong: grasp and target exchanged.
    What is drawn hangs on the attempt alone, so that a restart finds the same.
    """

    def __init__(self, inner: Proposer, wrong: float, deviation: float, seed: int):
        """`deviation` in metres."""
        self.inner, self.wrong, self.deviation, self.seed = inner, wrong, deviation, seed
        self.immediate = inner.immediate

    def propose(self, asked: Asked) -> Proposal | None:
        """As of Proposer."""
        found = self.inner.propose(asked)
        if found is None:
            return None
        seen = b"".join(np.ascontiguousarray(asked.observation[key]).tobytes() for key in sorted(asked.observation))
        rng = np.random.default_rng([self.seed, zlib.crc32(seen)])
        points = found.points[::-1] if rng.random() < self.wrong else found.points
        moved = np.asarray(points) + self.deviation * rng.normal(size=(len(points), 2))
        return replace(found, points=tuple((float(x), float(y)) for x, y in moved))


class HTTPProposer:
    """Asks a vision-language model behind an OpenAI-compatible address: a picture with a grid drawn on it, cells back.
    Whatever goes wrong is no proposal and a note.
    """

    def __init__(self, address: str, model: str, note: Callable[[str], None]):
        """The key comes from the environment, FLEETUI_KEYPOINTS_KEY."""
        self.immediate = False
        self.address, self.model, self.note = address, model, note
        self._answers: dict[tuple[str, bytes], Proposal | None] = {}  # of (instruction, picture)

    def propose(self, asked: Asked) -> Proposal | None:
        """As of Proposer; it takes up to TIMEOUT_S, unless the same was asked before."""
        if asked.picture is None or asked.view is None or not asked.view.plane:
            return None
        key = asked.instruction, hashlib.sha256(asked.picture.tobytes()).digest()
        if key not in self._answers:
            try:
                self._answers[key] = self._read(self._ask(asked.instruction, asked.picture), asked.view)
            except (OSError, ValueError, TypeError, LookupError, http.client.HTTPException) as error:
                self.note(f"No keypoints for {asked.instruction!r}: {str(error) or type(error).__name__}.")
                self._answers[key] = None
        return self._answers[key]

    def _ask(self, instruction: str, picture: np.ndarray) -> Any:
        said = (
            f"A robot shall do this: {instruction}. The picture has a grid of {GRID} columns, A to "
            f"{chr(ord('A') + GRID - 1)}, and {GRID} rows, 1 to {GRID}. Answer with JSON alone: "
            '{"grasp": cell, "waypoints": [cells on the way], "target": cell, "confidence": 0 to 1}, a cell as "C4".'
        )
        image = {"url": f"data:image/png;base64,{base64.b64encode(gridded(picture)).decode()}"}
        content = [{"type": "text", "text": said}, {"type": "image_url", "image_url": image}]
        body = {"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
        headers = {"Content-Type": "application/json"}
        if secret := os.environ.get("FLEETUI_KEYPOINTS_KEY"):
            headers["Authorization"] = f"Bearer {secret}"
        request = urllib.request.Request(
            f"{self.address.rstrip('/')}/chat/completions", strict_json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer = response.read(LARGEST_ANSWER + 1)
        if len(answer) > LARGEST_ANSWER:
            raise ValueError(f"the answer has more than {LARGEST_ANSWER} bytes")
        text = json.loads(answer)["choices"][0]["message"]["content"]
        return json.loads(text[text.index("{") : text.rindex("}") + 1])

    @staticmethod
    def _read(told: Any, view: Camera) -> Proposal:
        cells = [told["grasp"], *told.get("waypoints", []), told["target"]]
        if len(cells) > LONGEST_WAY:
            raise ValueError(f"{len(cells)} points are more than {LONGEST_WAY}")
        confidence = float(told.get("confidence", 1.0))
        if not 0 <= confidence <= 1:
            raise ValueError(f"a confidence of {confidence:g} is not between 0 and 1")
        return Proposal(tuple(on_plane(view, middle_of(cell)) for cell in cells), confidence)


def middle_of(cell: str) -> Point:
    """Of the grid's cell, as shares of the picture. ValueError where there is no such cell."""
    column, row = ord(str(cell)[:1].upper() or " ") - ord("A"), str(cell)[1:]
    if not 0 <= column < GRID or not row.isdecimal() or not 1 <= int(row) <= GRID:
        raise ValueError(f"there is no cell {cell!r}")
    return (column + 0.5) / GRID, (int(row) - 0.5) / GRID


def gridded(picture: np.ndarray) -> bytes:
    """The picture with the grid and its names drawn on it, as PNG."""
    image = Image.fromarray(picture)
    draw, (width, height) = ImageDraw.Draw(image), image.size
    for number in range(GRID):
        x, y = number * width / GRID, number * height / GRID
        draw.line([(x, 0), (x, height)], fill=(255, 255, 255))
        draw.line([(0, y), (width, y)], fill=(255, 255, 255))
        draw.text((x + width / GRID / 2 - 3, 0), chr(ord("A") + number), fill=(255, 255, 0))
        draw.text((1, y + height / GRID / 2 - 5), str(number + 1), fill=(255, 255, 0))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def on_plane(view: Camera, share: Point) -> Point:
    """Where on the table a place of the view's picture lies, given as shares of its width and height. Metres."""
    x, y, scale = np.linalg.inv(np.reshape(view.plane, (3, 3))) @ (*share, 1.0)
    return float(x / scale), float(y / scale)


# The dense reward


def hand_of(body: Embodiment, observations: Observation) -> tuple[np.ndarray, np.ndarray]:
    """Where the hand is, and whether it holds or at least closes. [F, 2] metres, [F] bool. ValueError where the body
    doesn't tell.
    """
    names, state = body.state_names, observations[STATE]
    plane = HAND[:2]
    if not set(plane) <= set(names):
        raise ValueError(f"{body.name} doesn't tell where its hand is ({', '.join(plane)}); keypoints need that.")
    places = state[:, [names.index(name) for name in plane]]
    if "held" in names:
        return places, state[:, names.index("held")] > 0.5
    if "gripper.pos" in names:
        return places, state[:, names.index("gripper.pos")] < CLOSED_BELOW
    raise ValueError(f"{body.name} doesn't tell whether its hand holds anything; keypoints need that.")


class Way:
    """What is left of the way of one attempt, step by step."""

    def __init__(self, points: Sequence[Point]):
        self.points = np.asarray(points, np.float64)
        self.next, self.holds, self.brought = 1, False, False

    def left(self, place: np.ndarray, closed: bool) -> float:
        """Metres, from where the hand is now on; to be asked once a frame, from the attempt's first on."""
        way = self.points
        self.holds = closed and (self.holds or math.dist(place, way[0]) <= GRASPED_WITHIN)
        self.brought = math.dist(place, way[-1]) <= BROUGHT_WITHIN if self.holds else self.brought
        if self.brought and not self.holds:  # let go where it belongs
            return 0.0
        if not self.holds:
            self.next = 1
            return math.dist(place, way[0]) + _length(way)
        while self.next < len(way) - 1 and math.dist(place, way[self.next]) <= GRASPED_WITHIN:
            self.next += 1
        return math.dist(place, way[self.next]) + _length(way[self.next :])


def _length(way: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())


def potential(body: Embodiment, observations: Observation, points: Sequence[Point]) -> np.ndarray:
    """phi at each observation of an attempt from its first on. [F, ...] -> [F]"""
    places, closed = hand_of(body, observations)
    way = Way(points)
    return -np.array([way.left(place, bool(shut)) for place, shut in zip(places, closed, strict=True)]) / HALF_WIDTH


def dense_rewards(potentials: np.ndarray, weight: float, cost: float) -> np.ndarray:
    """r of each step. [T + 1] -> [T]"""
    return weight * np.diff(potentials) - cost

"""An episode as an MCAP file, which Foxglove opens: pictures of all cameras, joint states, and the rest as numbers.

Messages are JSON under the names by which Foxglove knows their schemas, so no compiled schema is needed.
"""

import base64
import json
from pathlib import Path
from typing import Any

from mcap.writer import CompressionType, Writer

from robots.embodiments import ENVIRONMENT_STATE, IMAGES, STATE, Feature
from robots.episodes import ACTORS, Episode
from robots.lerobot.pictures import to_file

JPEG_QUALITY = 95

_TIME = {"type": "object", "properties": {"sec": {"type": "integer"}, "nsec": {"type": "integer"}}}
_NUMBER, _TEXT = {"type": "number"}, {"type": "string"}
SCHEMAS: dict[str, dict[str, Any]] = {
    "foxglove.CompressedImage": {
        "timestamp": _TIME,
        "frame_id": _TEXT,
        "data": {"type": "string", "contentEncoding": "base64"},
        "format": _TEXT,
    },
    "foxglove.JointStates": {
        "timestamp": _TIME,
        "joints": {"type": "array", "items": {"type": "object", "properties": {"name": _TEXT, "position": _NUMBER}}},
    },
    "fleetui.Step": {
        "timestamp": _TIME,
        "step": {"type": "integer"},
        "steps_to_go": {"type": ["number", "null"]},
        "actor": _TEXT,
        "fenced": {"type": "boolean"},
    },
}


def write_mcap(path: Path, episode: Episode) -> None:
    """Topics: /camera/NAME for each camera, /state, /environment and /action as joint states with the numbers' own
    names and units, /step with steps-to-go and who acted; what is told of the whole is metadata. Times count from when
    the episode began; the last moment has an observation and no action.
    """
    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType.NONE)
        writer.start(profile="", library="fleetui")
        schemas = {
            name: writer.register_schema(
                name,
                "jsonschema",
                json.dumps({"title": name, "type": "object", "properties": properties}).encode(),
            )
            for name, properties in SCHEMAS.items()
        }
        channels: dict[str, int] = {}

        def tell(topic: str, schema: str, at: int, **message: Any) -> None:
            if topic not in channels:
                channels[topic] = writer.register_channel(topic, "json", schemas[schema])
            stamp = {"sec": at // 10**9, "nsec": at % 10**9}
            data = json.dumps({"timestamp": stamp, **message}, allow_nan=False).encode()
            writer.add_message(channels[topic], at, data, at)

        begun = max(0, round(episode.started_at * 10**9))
        for step in range(episode.steps + 1):
            at = begun + round(step * 10**9 / episode.fps)
            acted = step < episode.steps
            for key, topic in ((STATE, "/state"), (ENVIRONMENT_STATE, "/environment")):
                if key in episode.observations:
                    feature = episode.body.observation.get(key) if episode.body else None
                    tell(topic, "foxglove.JointStates", at, joints=_joints(feature, episode.observations[key][step]))
            if acted:
                feature = episode.body.action if episode.body else None
                tell("/action", "foxglove.JointStates", at, joints=_joints(feature, episode.actions[step]))
            for camera, jpeg in _pictures(episode, step).items():
                tell(
                    f"/camera/{camera}",
                    "foxglove.CompressedImage",
                    at,
                    frame_id=camera,
                    data=base64.b64encode(jpeg).decode(),
                    format="jpeg",
                )
            d = float(episode.steps_to_go[step])
            tell(
                "/step",
                "fleetui.Step",
                at,
                step=step,
                steps_to_go=d if d == d else None,
                actor=ACTORS[episode.actors[step]] if acted else "",
                fenced=bool(acted and episode.fenced[step]),
            )
        whole = {
            name: "" if (value := getattr(episode, name)) is None else str(value)
            for name in (
                "uuid",
                "embodiment",
                "task",
                "instruction",
                "ending",
                "purpose",
                "detected_success",
                "true_success",
            )
        }
        writer.add_metadata("episode", whole)
        writer.finish()


def _joints(feature: Feature | None, values: Any) -> list[dict[str, Any]]:
    names = feature.names if feature is not None else [str(i) for i in range(len(values))]
    return [{"name": name, "position": float(value)} for name, value in zip(names, values, strict=True)]


def _pictures(episode: Episode, step: int) -> dict[str, bytes]:
    """A JPEG of each camera: as it was recorded, else made of what the policy saw."""
    found = {
        key.removeprefix(IMAGES): to_file(array[step], JPEG_QUALITY)
        for key, array in episode.observations.items()
        if key.startswith(IMAGES)
    }
    return found | {camera: frames[step] for camera, frames in episode.frames.items()}

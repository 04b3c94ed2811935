"""What methods may believe of an attempt: its labels, by who said so.

Stands between episodes and rewards. True success is the simulator's word and read nowhere here; a demonstration's own
end is its demonstrator's.
"""

from robots.episodes import LABEL_SOURCES, Episode

ANY = "any"
SOURCES = (ANY, *LABEL_SOURCES)


def value_of(episode: Episode, name: str, source: str = ANY) -> float | None:
    """A label's number, of this source; None where there is none."""
    told = episode.labels.get(name)
    if told is None or source not in (ANY, told["source"]) or isinstance(told["value"], list):
        return None
    return float(told["value"])


def succeeded(episode: Episode, source: str = ANY) -> bool:
    """Whether the attempt ended in success, by this source."""
    if episode.purpose == "demonstration":
        return bool(episode.true_success)
    if "success" not in episode.labels:  # of a station from before there were labels
        return episode.detected_success and source in (ANY, "classifier")
    return bool(value_of(episode, "success", source))

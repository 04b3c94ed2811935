"""What someone sends as a file of episodes, checked before any of it is kept: a station's attempts, or a dataset."""

from collections import Counter

from fleetui.access import Invalid, Refused
from robots.embodiments import Embodiment, differences
from robots.episodes import Episode, EpisodeError, FieldError, read_episodes


def read_upload(body: bytes) -> list[Episode]:
    """What someone sent, each episode sound by itself and there once."""
    try:
        recorded = read_episodes(body)
    except FieldError as error:
        raise Invalid(str(error)) from None
    except EpisodeError as error:
        raise Refused(str(error)) from None
    times = Counter(episode.uuid for episode in recorded)
    if twice := [uuid for uuid, count in times.items() if count > 1]:
        raise Invalid(f"Episode {twice[0]}, field uuid: two episodes of the upload have it; each needs its own.")
    return recorded


def refuse_impossible(episode: Episode, body: Embodiment) -> None:
    """Another rate, other units, a number beyond anything: it would train, and ruin what it trains."""
    if episode.body is not None and episode.body.name == body.name and (changed := differences(episode.body, body)):
        raise Invalid(
            f"Episode {episode.uuid}, field body: it is not the {body.name} that is known here: {'; '.join(changed)}."
        )
    try:
        episode.check_against(body)
    except EpisodeError as error:
        raise Invalid(str(error)) from None

"""The jobs of practice: a run's job beside what all runs need (learning/jobs.py), and what repeats in the queue.

While the learner runs, its job hands finished episodes in, tells the stations again what they must know, and once they
hold closes the round: from the stations to the learner by the run directory, and back by what it publishes.
"""

from dataclasses import replace
from pathlib import Path

from celery import shared_task

from fleetui.fleet.models import Episode
from fleetui.learning.jobs import SUPERVISIONS, Supervision
from fleetui.learning.models import Checkpoint, Run
from fleetui.messages import tell_station_on_commit
from fleetui.practice import selectors
from fleetui.practice.actions import assignments, episodes, publishing
from robots.atomic_files import link_to, write_atomically
from robots.episodes import read_episodes, write_episodes
from robots.protocol import Hold
from training.run_dir import RunError

REPEAT_S = 3.0  # a channel layer may drop: what stations must know is said again
LATE_UPLOAD_S = 3.0  # a station has ended its episode, whose upload is on its way
STATION_STUCK_S = 60.0  # a station that doesn't end its episode doesn't stop the round for ever


class PracticeSupervision(Supervision):
    """One attempt at a run that practises on stations."""

    TERMINATE_S = 4.0  # it was saved after its last update, so no evaluation is waited for

    def __init__(self, run: Run):
        super().__init__(run)
        self.handed_in: set[str] = set()
        self.repeated_at = 0.0
        self.holding_since: float | None = None
        self.episodes_over_since: float | None = None

    def prepare(self) -> None:
        super().prepare()
        self.handed_in = set()
        for path in self.dir.episodes.glob("*.safetensors"):
            self.handed_in.add(path.stem[-36:])
            if not path.exists():  # linked by a whole path, and the data folder was moved
                episode = Episode.objects.filter(pk=path.stem[-36:]).first()
                if episode is None or not episode.file.is_file():
                    raise RunError(f"{path.name} leads to no episode; restore the data folder.")
                link_to(episode.file, path)

    def list_data(self) -> dict[str, Path]:
        """Practice learns from the demonstrations too, as long as they are there."""
        return {name: file for name, file in super().list_data().items() if file.is_file()}

    def serve(self, now: float) -> None:
        self.hand_in()
        self.close_round(now)
        if now - self.repeated_at > REPEAT_S:
            self.repeated_at = now
            self.repeat_orders()

    def publish(self, checkpoint: Checkpoint) -> None:
        if publishing.publish_checkpoint(run=self.run, checkpoint=checkpoint):
            self.holding_since = self.episodes_over_since = None

    def hand_in(self) -> None:
        """Episodes of the open version, each once; the number keeps the order in which they came."""
        if self.run.open_version is None:
            return
        fresh = selectors.episodes_to_hand_in(self.run)
        for episode in fresh:
            name = str(episode.pk)
            if name not in self.handed_in:
                self.handed_in.add(name)
                target = self.dir.episodes / f"{len(self.handed_in):07d}-{name}.safetensors"
                self.hand_over(episode, target)
        if fresh:
            episodes.hand_in_episodes(episodes=fresh)

    @staticmethod
    def hand_over(episode: Episode, target: Path) -> None:
        """Its file, which was complete before its row was; with what a person has said of it since, a copy."""
        if not any(told["source"] == "human" for told in episode.labels.values()):
            link_to(episode.file, target)
            return
        (recorded,) = read_episodes(episode.file)
        write_episodes(target, [replace(recorded, labels=episode.labels)])

    def close_round(self, now: float) -> None:
        """Once the stations hold: wait for the episodes under way and their uploads, then tell the learner that this
        was all.
        """
        version = self.run.open_version
        if not self.run.holding or version is None or self.dir.closed(version):
            return
        self.holding_since = self.holding_since or now
        in_episode, not_uploaded = selectors.unsettled_stations(self.run)
        if in_episode and now - self.holding_since < STATION_STUCK_S:
            self.episodes_over_since = None
            return
        self.episodes_over_since = self.episodes_over_since or now
        if not_uploaded and now - self.episodes_over_since < LATE_UPLOAD_S:
            return
        self.hand_in()  # what was stored between the last look and the settling
        write_atomically(self.dir.rounds / f"{version}.closed", b"")

    def repeat_orders(self) -> None:
        policy = self.run.published_policy()
        if policy is None:
            return
        publishing.record_loaded_everywhere(run=self.run)
        for station in selectors.stations_behind(self.run):
            tell_station_on_commit(station.command_group, *publishing.list_orders(station=station))
        if self.run.holding:
            message = Hold(version=self.run.open_version)
            publishing.tell_stations_of_run(run=self.run, message=message)


SUPERVISIONS[True] = PracticeSupervision


@shared_task(name="fleet.repeat_assignment")
def repeat_assignment_job(assignment_id: int) -> None:
    """Celery's beat sends this when an occurrence of a repeating assignment is due."""
    assignments.repeat_assignment(assignment_id=assignment_id)

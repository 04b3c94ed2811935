"""A lab's own robot in a thread of this process: a station's loop and link on a world that the test can reach."""

import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from robots.link import Link, LinkThread
from robots.protocol import Hello
from robots.station import Station


class OwnRobot:
    """A station without policies; a person drives it. What a test wants beside that it adds to `hear` and `show`."""

    def __init__(self, world, server, token, folder, teleoperator=None):
        self.world = world
        hello = Hello(
            embodiment=world.embodiment.to_json(),
            software="test",
            renderer=world.renderer,
            teleoperator=teleoperator.name if teleoperator else "",
        )
        self.links, self.arrived, self.ending = LinkThread(), threading.Event(), False
        self.link = Link(server, token, hello, folder, name="own", arrived=self.arrived.set)
        self.station = Station(
            world, teleoperator=teleoperator, emit=self.link.send, show=self.link.show, store=self.link.store
        )
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.begin()
        self.links.add(self.link)
        self.thread.start()

    def begin(self):
        """Before anything is heard."""

    def hear(self, message, received_at):
        """A message of the server."""
        self.station.receive(message, received_at)

    def show(self):
        """In each round of the loop."""

    def run(self):
        while not self.ending:
            self.station.server_gone(self.link.gone_for())
            for message, received_at in self.link.received():
                self.hear(message, received_at)
            if self.station.observe() is not None:
                self.station.act(None, np.nan, None)
            self.show()
            self.arrived.wait(0.005)
            self.arrived.clear()

    def close(self):
        self.ending = True
        self.thread.join(60)
        self.links.close()


def add_station(page, name):
    """A station for a real robot, made on the page that shows its token: the token."""
    page.goto("/labs/main/stations/new")
    page.get_by_label("Name").fill(name)
    page.get_by_label("a real robot").check()
    page.get_by_role("button", name="Add").click()
    return page.inner_text("#token")


@contextmanager
def joined(page, fleet, name, world, kind=OwnRobot, **more):
    """Such a robot at a station of its own."""
    token = add_station(page, name)
    with tempfile.TemporaryDirectory() as folder:
        robot = kind(world, fleet.url, token, Path(folder), **more)
        yield robot
        robot.close()

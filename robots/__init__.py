"""Bodies, worlds, episodes and stations: all that runs beside a robot. Knows numpy and MuJoCo, no torch, no Django.

Python runs this file before any other of the package, so all worlds are registered before anybody can read EMBODIMENTS
or TASKS, and bodies and tasks don't have to know who declares them. It loads no simulator (robots/worlds/__init__.py).
"""

from robots.worlds import find_worlds, register
from robots.worlds.packages import register_packages
from robots.worlds.third_party import described_worlds

for _spec in find_worlds():
    register(_spec)
for _spec in described_worlds():  # after the built-in ones, whose names they can't take
    register(_spec)
register_packages()  # last: they can take nobody's name

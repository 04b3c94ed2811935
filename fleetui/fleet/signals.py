"""What the fleet tells those that build on it. It knows neither the queue nor runs: practice/receivers.py hears these.

Each is sent inside the act's transaction, so what a receiver does is done with the act or not at all.
"""

from django.dispatch import Signal

queue_changed = Signal()  # lab: something that its queue waits for was freed, added or moved
task_edited = Signal()  # task: the stations that practise it follow another rule now
maintenance_changed = Signal()  # station: it began or ended, so what the station should be doing changed
station_left = Signal()  # station: it is offline or in maintenance, so nothing waits for it any more

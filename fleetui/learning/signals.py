"""What learning tells those that build on it. It knows no stations at work: practice/receivers.py hears this.

It is sent inside the act's transaction, so what a receiver does is done with the act or not at all.
"""

from django.dispatch import Signal

run_moved = Signal()  # run: it is in another state now, and `run` is read anew

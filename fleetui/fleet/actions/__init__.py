"""Everything that changes the fleet: the only place that writes its rows and emits its live messages.

Here a person's command becomes a message to a station, and a station's report becomes a row. Every function is
keyword-only and named verb_noun; what users may cause is Refused with a sentence. What a person does takes the `user`
and asks access.py for the role before anything else, whatever page or socket has asked already; what the server does by
itself says access.SERVER. Who builds on the fleet hears of what it must know by the signals of signals.py.
"""

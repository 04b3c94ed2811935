"""The client of a fleet: what its HTTP API offers to programs, with types.

    from fleetui_client import Fleet

    with Fleet("https://fleet.example", token) as fleet:
        run = fleet.launch_run("sft", dataset=1, recipe={"steps": 2000})
        for said in fleet.watch_run(run.id):
            print(said)

AsyncFleet has the same methods as coroutines. Without an address and a token both take those of `fleet login`.
"""

from fleetui_client.asynchronous import AsyncFleet
from fleetui_client.errors import BadAnswer, FleetError, NotAuthorised, NotLoggedIn, Refused, Unreachable
from fleetui_client.synchronous import Fleet

__all__ = [
    "AsyncFleet",
    "BadAnswer",
    "Fleet",
    "FleetError",
    "NotAuthorised",
    "NotLoggedIn",
    "Refused",
    "Unreachable",
]

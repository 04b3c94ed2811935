"""Everything that changes the fleet: the only place that writes its rows and emits its live messages.

Here a person's command becomes a message to a station, a station's report becomes a row, and an upload becomes episodes
on disk that a run's job hands to its learner. Every function is keyword-only and named verb_noun; what users may cause
is Refused with a sentence.
"""

from fleetui.fleet.actions.assignments import (
    assign_task,
    cancel_assignment,
    end_assignment,
    list_orders,
    move_assignment,
    order_station,
    order_stations_of_run,
    start_assignment,
    tell_stations_of_run,
)
from fleetui.fleet.actions.control import (
    DRIVE_TTL_MS,
    checked_args,
    command_station,
    lapse_control,
    lapse_expired_control,
    renew_control,
    stop_lab,
    undo_override,
)
from fleetui.fleet.actions.episodes import UPLOAD_LIMIT, hand_in_episodes, label_episode, store_episodes
from fleetui.fleet.actions.labs import add_member, create_lab, create_station, create_task, renew_token
from fleetui.fleet.actions.reports import (
    connect_station,
    disconnect_silent_stations,
    disconnect_station,
    record_loaded_everywhere,
    record_policy_loaded,
    record_telemetry,
    record_touch,
)

__all__ = [
    "DRIVE_TTL_MS",
    "UPLOAD_LIMIT",
    "add_member",
    "assign_task",
    "cancel_assignment",
    "checked_args",
    "command_station",
    "connect_station",
    "create_lab",
    "create_station",
    "create_task",
    "disconnect_silent_stations",
    "disconnect_station",
    "end_assignment",
    "hand_in_episodes",
    "label_episode",
    "lapse_control",
    "lapse_expired_control",
    "list_orders",
    "move_assignment",
    "order_station",
    "order_stations_of_run",
    "record_loaded_everywhere",
    "record_policy_loaded",
    "record_telemetry",
    "record_touch",
    "renew_control",
    "renew_token",
    "start_assignment",
    "stop_lab",
    "store_episodes",
    "tell_stations_of_run",
    "undo_override",
]

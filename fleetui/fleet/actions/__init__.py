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
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.actions.control import command_station
from fleetui.fleet.actions.episodes import UPLOAD_LIMIT, hand_in_episodes, store_episodes
from fleetui.fleet.actions.labs import add_member, create_lab, create_station, create_task, renew_token
from fleetui.fleet.actions.maintenance import begin_maintenance, end_maintenance
from fleetui.fleet.actions.people import (
    accept_invitation,
    change_role,
    invite_member,
    note_seen,
    remove_member,
    revoke_invitation,
)
from fleetui.fleet.actions.reports import (
    connect_station,
    disconnect_silent_stations,
    disconnect_station,
    record_loaded_everywhere,
    record_policy_loaded,
    record_telemetry,
    record_touch,
)
from fleetui.fleet.actions.spans import drop_old_spans

__all__ = [
    "UPLOAD_LIMIT",
    "accept_invitation",
    "add_member",
    "assign_task",
    "begin_maintenance",
    "cancel_assignment",
    "change_role",
    "command_station",
    "connect_station",
    "create_lab",
    "create_station",
    "create_task",
    "disconnect_silent_stations",
    "disconnect_station",
    "drop_old_spans",
    "end_assignment",
    "end_maintenance",
    "hand_in_episodes",
    "invite_member",
    "list_orders",
    "move_assignment",
    "note_seen",
    "order_station",
    "order_stations_of_run",
    "record_act",
    "record_loaded_everywhere",
    "record_policy_loaded",
    "record_telemetry",
    "record_touch",
    "remove_member",
    "renew_token",
    "revoke_invitation",
    "start_assignment",
    "store_episodes",
    "tell_stations_of_run",
]

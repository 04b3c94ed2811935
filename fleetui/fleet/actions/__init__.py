"""Everything that changes the fleet: the only place that writes its rows and emits its live messages.

Here a person's command becomes a message to a station, a station's report becomes a row, and an upload becomes episodes
on disk that a run's job hands to its learner. Every function is keyword-only and named verb_noun; what users may cause
is Refused with a sentence.
"""

from fleetui.fleet.actions.assignments import (
    assign_task,
    begin_practice,
    cancel_assignment,
    dispatch_on_commit,
    end_assignment,
    list_orders,
    lock_queue,
    move_assignment,
    order_station,
    order_stations_of_run,
    reorder_assignment,
    repeat_assignment,
    start_assignment,
    stop_repeating,
    tell_stations_of_run,
)
from fleetui.fleet.actions.attention import (
    acknowledge_help,
    add_contact,
    close_help,
    note_absence,
    note_need,
    record_told,
    release_help,
    remove_contact,
    take_help,
)
from fleetui.fleet.actions.control import command_station
from fleetui.fleet.actions.dispatch import dispatch_all, dispatch_assignments
from fleetui.fleet.actions.episodes import UPLOAD_LIMIT, hand_in_episodes, store_episodes
from fleetui.fleet.actions.labs import (
    add_member,
    archive_task,
    create_lab,
    create_station,
    create_task,
    edit_task,
    renew_token,
    restore_task,
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

__all__ = [
    "acknowledge_help",
    "add_contact",
    "close_help",
    "note_absence",
    "note_need",
    "record_told",
    "release_help",
    "remove_contact",
    "take_help",
    "UPLOAD_LIMIT",
    "add_member",
    "archive_task",
    "assign_task",
    "begin_practice",
    "cancel_assignment",
    "command_station",
    "connect_station",
    "create_lab",
    "create_station",
    "create_task",
    "dispatch_all",
    "dispatch_assignments",
    "dispatch_on_commit",
    "disconnect_silent_stations",
    "disconnect_station",
    "edit_task",
    "end_assignment",
    "hand_in_episodes",
    "list_orders",
    "lock_queue",
    "move_assignment",
    "order_station",
    "order_stations_of_run",
    "record_loaded_everywhere",
    "record_policy_loaded",
    "record_telemetry",
    "record_touch",
    "renew_token",
    "reorder_assignment",
    "repeat_assignment",
    "restore_task",
    "start_assignment",
    "stop_repeating",
    "store_episodes",
    "tell_stations_of_run",
]

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
from fleetui.fleet.actions.audit import record_act
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
    "acknowledge_help",
    "add_contact",
    "add_member",
    "archive_task",
    "assign_task",
    "begin_maintenance",
    "begin_practice",
    "cancel_assignment",
    "change_role",
    "close_help",
    "command_station",
    "connect_station",
    "create_lab",
    "create_station",
    "create_task",
    "disconnect_silent_stations",
    "disconnect_station",
    "dispatch_all",
    "dispatch_assignments",
    "dispatch_on_commit",
    "drop_old_spans",
    "edit_task",
    "end_assignment",
    "end_maintenance",
    "hand_in_episodes",
    "invite_member",
    "list_orders",
    "lock_queue",
    "move_assignment",
    "note_absence",
    "note_need",
    "note_seen",
    "order_station",
    "order_stations_of_run",
    "record_act",
    "record_loaded_everywhere",
    "record_policy_loaded",
    "record_telemetry",
    "record_told",
    "record_touch",
    "release_help",
    "remove_contact",
    "remove_member",
    "renew_token",
    "reorder_assignment",
    "repeat_assignment",
    "restore_task",
    "revoke_invitation",
    "start_assignment",
    "stop_repeating",
    "store_episodes",
    "take_help",
    "tell_stations_of_run",
]

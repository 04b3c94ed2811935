"""Addresses of the pages that show fleet and learning together."""

from django.urls import URLPattern, URLResolver, include, path

from fleetui.practice.views import runs, sweeps, tasks, wall

ASSIGNMENT = [
    path("", tasks.edit_assignment, name="edit_assignment"),
    path("/move", tasks.move_assignment, name="move_assignment"),
    path("/cancel", tasks.cancel_assignment, name="cancel_assignment"),
    path("/kill", tasks.kill_assignment, name="kill_assignment"),
    path("/stop-repeating", tasks.stop_repeating, name="stop_repeating"),
]

TASKS: list[URLPattern | URLResolver] = [
    path("", tasks.tasks, name="tasks"),
    path("new", tasks.create_task, name="create_task"),
    path("preview", tasks.preview_task, name="preview_task"),
    path("queue", tasks.task_queue, name="task_queue"),
    path("assignments/new", tasks.assign_task, name="assign_task"),
    path("assignments/<int:number>", include(ASSIGNMENT)),
    path("<slug:task_slug>/edit", tasks.edit_task, name="edit_task"),
    path("<slug:task_slug>/archive", tasks.archive_task, name="archive_task"),
    path("<slug:task_slug>/restore", tasks.restore_task, name="restore_task"),
]

SWEEPS = [
    path("", sweeps.sweep_list, name="sweeps"),
    path("new", sweeps.new_sweep, name="new_sweep"),
    path("<int:sweep_id>", sweeps.sweep, name="sweep"),
    path("<int:sweep_id>/stop", sweeps.stop_sweep, name="stop_sweep"),
]

urlpatterns = [
    path("labs/<slug:lab_slug>/sweeps/", include(SWEEPS)),
    path("labs/<slug:lab_slug>/", wall.wall, name="wall"),
    path("labs/<slug:lab_slug>/tasks/", include(TASKS)),
    path("labs/<slug:lab_slug>/runs/", runs.runs, name="runs"),
    path("labs/<slug:lab_slug>/runs/new", runs.new_run, name="new_run"),
    path("labs/<slug:lab_slug>/runs/estimate", runs.estimate_run, name="estimate_run"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>", runs.run, name="run"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>/evaluate", runs.evaluate_run, name="evaluate_run"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>/evaluations", runs.run_evaluations, name="run_evaluations"),
]

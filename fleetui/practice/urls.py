"""Addresses of the pages that show fleet and learning together."""

from django.urls import path

from fleetui.practice.views import runs, tasks, wall

urlpatterns = [
    path("labs/<slug:lab_slug>/", wall.wall, name="wall"),
    path("labs/<slug:lab_slug>/tasks/", tasks.tasks, name="tasks"),
    path("labs/<slug:lab_slug>/tasks/assignments/<int:number>", tasks.edit_assignment, name="edit_assignment"),
    path("labs/<slug:lab_slug>/tasks/queue", tasks.task_queue, name="task_queue"),
    path("labs/<slug:lab_slug>/runs/", runs.runs, name="runs"),
    path("labs/<slug:lab_slug>/runs/new", runs.new_run, name="new_run"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>", runs.run, name="run"),
]

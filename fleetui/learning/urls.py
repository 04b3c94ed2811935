"""Addresses of the pages of learning."""

from django.urls import path, re_path

from fleetui.learning import views

urlpatterns = [
    path("labs/<slug:lab_slug>/runs/", views.runs, name="runs"),
    path("labs/<slug:lab_slug>/runs/new", views.new_run, name="new_run"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>", views.run, name="run"),
    re_path(
        r"^labs/(?P<lab_slug>[-\w]+)/runs/(?P<run_id>\d+)/(?P<act>cancel|pause|resume)$",
        views.control_run,
        name="control_run",
    ),
    re_path(
        r"^labs/(?P<lab_slug>[-\w]+)/runs/(?P<run_id>\d+)/(?P<role>policy|reward_model)\.safetensors$",
        views.run_checkpoint,
        name="run_checkpoint",
    ),
    path("labs/<slug:lab_slug>/datasets/", views.datasets, name="datasets"),
]

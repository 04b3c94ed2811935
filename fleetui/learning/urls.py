"""Addresses of the pages of learning."""

from django.urls import path

from fleetui.learning import views

urlpatterns = [
    path("labs/<slug:lab_slug>/runs/<int:run_id>/<slug:role>.safetensors", views.run_checkpoint, name="run_checkpoint"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>/archive", views.archive_run, name="archive_run"),
    path("labs/<slug:lab_slug>/runs/<int:run_id>/<slug:act>", views.control_run, name="control_run"),
    path("labs/<slug:lab_slug>/datasets/<int:dataset_id>/archive", views.archive_dataset, name="archive_dataset"),
    path("labs/<slug:lab_slug>/datasets/", views.datasets, name="datasets"),
]

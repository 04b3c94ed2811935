"""Addresses of the pages of learning."""

from django.urls import include, path

from fleetui.learning import views

RUN = [
    path("<slug:role>.safetensors", views.run_checkpoint, name="run_checkpoint"),
    path("pause", views.pause_run, name="pause_run"),
    path("resume", views.resume_run, name="resume_run"),
    path("cancel", views.cancel_run, name="cancel_run"),
    path("archive", views.archive_run, name="archive_run"),
    path("restore", views.restore_run, name="restore_run"),
    path("delete", views.delete_run, name="delete_run"),
]

DATASETS = [
    path("", views.datasets, name="datasets"),
    path("generate", views.generate_dataset, name="generate_dataset"),
    path("upload", views.upload_dataset, name="upload_dataset"),
    path("<int:dataset_id>/", views.dataset, name="dataset"),
    path("<int:dataset_id>/archive", views.archive_dataset, name="archive_dataset"),
    path("<int:dataset_id>/restore", views.restore_dataset, name="restore_dataset"),
    path("<int:dataset_id>/delete", views.delete_dataset, name="delete_dataset"),
]

urlpatterns = [
    path("labs/<slug:lab_slug>/runs/<int:run_id>/", include(RUN)),
    path("labs/<slug:lab_slug>/datasets/", include(DATASETS)),
]

"""Addresses of the pages of learning."""

from django.urls import include, path

from fleetui.learning import compare_pages, run_pages, views

RUN = [
    path("<slug:role>.safetensors", views.run_checkpoint, name="run_checkpoint"),
    path("pause", views.pause_run, name="pause_run"),
    path("resume", views.resume_run, name="resume_run"),
    path("cancel", views.cancel_run, name="cancel_run"),
    path("archive", views.archive_run, name="archive_run"),
    path("restore", views.restore_run, name="restore_run"),
    path("delete", views.delete_run, name="delete_run"),
    path("notes", run_pages.write_on_run, name="write_on_run"),
    path("log", run_pages.run_log, name="run_log"),
    path("log.txt", run_pages.run_log_file, name="run_log_file"),
    path("resources", run_pages.run_resources, name="run_resources"),
]

RUNS = [
    path("compare", compare_pages.compare_runs, name="compare_runs"),
    path("compare.csv", compare_pages.compare_csv, name="compare_csv"),
    path("compare.json", compare_pages.compare_json, name="compare_json"),
    path("act", run_pages.act_on_runs, name="act_on_runs"),
    path("views", run_pages.save_view, name="save_run_view"),
    path("views/<int:view_id>/rename", run_pages.rename_view, name="rename_run_view"),
    path("views/<int:view_id>/delete", run_pages.delete_view, name="delete_run_view"),
]

DATASETS = [
    path("", views.datasets, name="datasets"),
    path("generate", views.generate_dataset, name="generate_dataset"),
    path("upload", views.upload_dataset, name="upload_dataset"),
    path("<int:dataset_id>/archive", views.archive_dataset, name="archive_dataset"),
    path("<int:dataset_id>/restore", views.restore_dataset, name="restore_dataset"),
    path("<int:dataset_id>/delete", views.delete_dataset, name="delete_dataset"),
]

urlpatterns = [
    path("labs/<slug:lab_slug>/runs/", include(RUNS)),
    path("labs/<slug:lab_slug>/runs/<int:run_id>/", include(RUN)),
    path("labs/<slug:lab_slug>/datasets/", include(DATASETS)),
]

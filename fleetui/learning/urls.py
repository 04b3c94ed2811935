"""Addresses of the pages of learning."""

from django.urls import include, path

from fleetui.learning import dataset_views, views

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
    path("", dataset_views.list_all, name="datasets"),
    path("generate", dataset_views.generate_dataset, name="generate_dataset"),
    path("upload", dataset_views.upload_dataset, name="upload_dataset"),
    path("import", dataset_views.import_dataset, name="import_dataset"),
    path("imports", dataset_views.list_imports, name="list_imports"),
    path("imports/<int:import_id>/answer", dataset_views.answer_import, name="answer_import"),
    path("imports/<int:import_id>/cancel", dataset_views.cancel_import, name="cancel_import"),
    path("from-episodes", dataset_views.gather_dataset, name="gather_dataset"),
    path("from-episodes/count", dataset_views.count_gathered, name="count_gathered"),
    path("<int:dataset_id>/", dataset_views.show, name="dataset"),
    path("<int:dataset_id>/episodes/<int:position>", dataset_views.show_episode, name="dataset_episode"),
    path("<int:dataset_id>/edit", dataset_views.edit, name="edit_dataset"),
    path("<int:dataset_id>/describe", dataset_views.describe, name="describe_dataset"),
    path("<int:dataset_id>/back", dataset_views.go_back, name="dataset_back"),
    path("<int:dataset_id>/current", dataset_views.make_current, name="dataset_current"),
    path("<int:dataset_id>/split", dataset_views.split, name="split_dataset"),
    path("<int:dataset_id>/merge", dataset_views.merge, name="merge_dataset"),
    path("<int:dataset_id>/export", dataset_views.export, name="export_dataset"),
    path("<int:dataset_id>/archive", dataset_views.archive_dataset, name="archive_dataset"),
    path("<int:dataset_id>/restore", dataset_views.restore_dataset, name="restore_dataset"),
    path("<int:dataset_id>/delete", dataset_views.delete_dataset, name="delete_dataset"),
]

urlpatterns = [
    path("labs/<slug:lab_slug>/runs/<int:run_id>/", include(RUN)),
    path("labs/<slug:lab_slug>/datasets/", include(DATASETS)),
]

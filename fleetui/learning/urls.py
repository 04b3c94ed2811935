"""Addresses of the pages of learning."""

from django.urls import URLPattern, URLResolver, include, path

from fleetui.learning import (
    checkpoint_pages,
    compare_pages,
    dataset_views,
    detector_pages,
    machine_pages,
    model_pages,
    run_pages,
    views,
)

RUN = [
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
    path("<int:dataset_id>/back", dataset_views.undo_edit, name="dataset_back"),
    path("<int:dataset_id>/current", dataset_views.make_current, name="dataset_current"),
    path("<int:dataset_id>/split", dataset_views.split, name="split_dataset"),
    path("<int:dataset_id>/merge", dataset_views.merge, name="merge_dataset"),
    path("<int:dataset_id>/export", dataset_views.export, name="export_dataset"),
    path("<int:dataset_id>/archive", dataset_views.archive_dataset, name="archive_dataset"),
    path("<int:dataset_id>/restore", dataset_views.restore_dataset, name="restore_dataset"),
    path("<int:dataset_id>/delete", dataset_views.delete_dataset, name="delete_dataset"),
]

CHECKPOINT = [
    path("", checkpoint_pages.checkpoint_page, name="checkpoint"),
    path(".safetensors", checkpoint_pages.download_checkpoint, name="download_checkpoint"),
    path("/promote", checkpoint_pages.promote_checkpoint, name="promote_checkpoint"),
    path("/compare", checkpoint_pages.ask_comparison, name="ask_comparison"),
    path("/comparisons", checkpoint_pages.checkpoint_comparisons, name="checkpoint_comparisons"),
]

MODELS = [
    path("", model_pages.models, name="models"),
    path("add", model_pages.add_model, name="add_model"),
    path("imports", model_pages.list_imports, name="list_model_imports"),
    path("<int:model_id>/archive", model_pages.archive_model, name="archive_model"),
    path("<int:model_id>/restore", model_pages.restore_model, name="restore_model"),
    path("<int:model_id>/delete", model_pages.delete_model, name="delete_model"),
]

CHECKPOINTS: list[URLPattern | URLResolver] = [
    path("", checkpoint_pages.checkpoint_list, name="checkpoints"),
    path("<uuid:checkpoint_uuid>", include(CHECKPOINT)),
    path("promotions/<int:number>/undo", checkpoint_pages.undo_promotion, name="undo_promotion"),
    path("comparisons/<int:number>/cancel", checkpoint_pages.cancel_comparison, name="cancel_comparison"),
]

STUDIO = [
    path("", detector_pages.studio_page, name="studio"),
    path("/figures", detector_pages.studio_figures, name="studio_figures"),
    path("/publish", detector_pages.publish_threshold, name="publish_threshold"),
]

SPOT_CHECKS = [
    path("", detector_pages.spot_check_page, name="spot_checks"),
    path("<int:number>/answer", detector_pages.answer_spot_check, name="answer_spot_check"),
    path("undo", detector_pages.undo_spot_check, name="undo_spot_check"),
]

urlpatterns = [
    path("labs/<slug:lab_slug>/runs/", include(RUNS)),
    path("labs/<slug:lab_slug>/runs/<int:run_id>/", include(RUN)),
    path("labs/<slug:lab_slug>/machines", machine_pages.machines, name="machines"),
    path("labs/<slug:lab_slug>/models/", include(MODELS)),
    path("labs/<slug:lab_slug>/datasets/", include(DATASETS)),
    path("labs/<slug:lab_slug>/checkpoints/", include(CHECKPOINTS)),
    path("labs/<slug:lab_slug>/reward-models/<uuid:checkpoint_uuid>/studio", include(STUDIO)),
    path("labs/<slug:lab_slug>/spot-checks/", include(SPOT_CHECKS)),
    path("labs/<slug:lab_slug>/playground", detector_pages.playground, name="playground"),
    path("labs/<slug:lab_slug>/playground/answer", detector_pages.playground_answer, name="playground_answer"),
]

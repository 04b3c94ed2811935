"""Tasks, and assignments of them to stations."""

from django.contrib import messages
from django.http import Http404
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods

from fleetui import access
from fleetui.fleet import actions, selectors
from fleetui.fleet.forms import AssignForm, TaskForm
from fleetui.fleet.views.pages import add_refusal, page, render_page


@page
@require_http_methods(["GET", "POST"])
def tasks(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    act = request.POST.get("act", "")
    task_form = TaskForm(request.POST if act == "task" else None)
    assign_form = AssignForm(request.POST if act == "assign" else None, lab=lab)
    assign_form.fields["stations"].initial = assign_form.fields["stations"].queryset
    if request.method == "POST":
        done = change_tasks(request, lab, act, task_form, assign_form)
        if done:
            messages.success(request, done)
            return redirect("tasks", lab_slug)
    assignments = list(selectors.list_assignments(lab)[:50])
    for each in assignments:
        each.station_list = each.stations.all()
        each.is_live = each.state in each.LIVE
    bad = task_form.errors or assign_form.errors
    return render_page(
        request,
        "fleet/tasks.html",
        lab,
        "tasks",
        422 if bad else 200,
        assignments=assignments,
        tasks=selectors.list_tasks(lab),
        task_form=task_form,
        assign_form=assign_form,
    )


def change_tasks(request, lab, act, task_form, assign_form) -> str:
    """Do what one of the page's forms asks; returns what was done, or "" where a form now says what is wrong."""
    form = {"task": task_form, "assign": assign_form}.get(act)
    if form is not None and not form.is_valid():
        return ""
    try:
        if act == "task":
            access.get_lab(request.user, lab.slug, "create_task")
            return f"{actions.create_task(lab=lab, **form.cleaned_data)} can be assigned now."
        if act == "assign":
            access.get_lab(request.user, lab.slug, "assign")
            task, stations = form.cleaned_data["task"], list(form.cleaned_data["stations"])
            actions.assign_task(lab=lab, task=task, stations=stations, user=request.user)
            return f"{task} is assigned to {len(stations)} stations; they practise once a run stands behind it."
        if act == "cancel" and request.POST.get("assignment", "").isdecimal():
            each = access.get_assignment(request.user, lab.slug, int(request.POST["assignment"]), "assign")
            actions.cancel_assignment(assignment=each, user=request.user)
            return f"The assignment of {each.task} was canceled."
    except (access.Denied, access.NotFound):
        raise
    except access.Refused as refused:
        if form is None:
            messages.error(request, str(refused))
        else:
            add_refusal(form, refused)
        return ""
    raise Http404("This page has no such form.")

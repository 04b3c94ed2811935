// A run as it goes: its method's curves and the success curve grow by the socket; and so does the log's tail.

import { live } from "./live.js";
import { lab, page } from "./app.js";
import { config, layout } from "./plots.js";
import { colour, count, duration, isNumber, learnedOf, number, percent, refreshTimes, root, setState, setText,
  timeOfDay, withAlpha, STATES, stateWord } from "./format.js";

const Plotly = window.Plotly;
const runId = Number(page.run), method = JSON.parse(document.getElementById("method").textContent);
const LIVE = ["queued", "starting", "running", "pausing", "paused", "canceling"];
const SETTLED_MS = 3000;   // a station that resets itself is no news
const $ = (selector) => document.querySelector(selector);
const field = (name) => $(`[data-f="${name}"]`);
let run = {}, metrics = [], checkpoints = [], stations = [];
let pending = false;

const ended = () => !LIVE.includes(run.state);
const of = (name) => metrics.filter((metric) => metric.kind === name).map((metric) => metric.data);

// Skill is the success rate; speed and falls stand beside it. Evaluations from before they were counted have neither.
function speedAndFalls(e) {
  const speed = isNumber(e.steps_to_success) ? [`${number(e.steps_to_success)} steps to success`] : [];
  return isNumber(e.falls) ? [...speed, `${number(100 * e.falls / e.n, 1)} falls per 100 attempts`] : speed;
}

const bandSpeedAndFalls = (e) =>
  [`95 % band ${percent(e.low)} to ${percent(e.high)}`, ...speedAndFalls(e)].join(", ");

// The first evaluation of a run that practises is its parent's policy, on the same seeds: that is the level to beat.
// What only trains has one evaluation: its result.
function drawSuccess() {
  const points = of("evaluation").map((e) => ({ ...e, rate: e.n ? e.successes / e.n : null }))
    .filter((e) => e.rate !== null);
  const shown = JSON.parse($("#station-points").textContent).filter((e) => e.known > 0);
  const empty = !points.length && !shown.length;
  $("#success").hidden = empty;
  $("#success-empty").hidden = !empty;
  $("#success").dataset.stations = shown.length;
  if (empty) {
    if (ended()) setText(field("success-note"), "no evaluation was made");
    return;
  }
  if (!points.length) {
    if (method.practises) drawStationsAlone(shown);
    return;
  }
  const ink = colour("ink");
  if (!method.practises) {
    const last = points.at(-1);
    $("#result-panel").hidden = false;
    setText(field("result"), `${percent(last.rate)} true success`);
    setText(field("result-note"), `${last.successes} of ${last.n} evaluation episodes, ${bandSpeedAndFalls(last)}`);
    return;
  }
  const xs = points.map((e) => e.practice_episodes ?? 0), first = points[0], last = points.at(-1);
  const best = points.find((e) => e.version === run.kept_version) ?? points.reduce((a, b) => (b.rate > a.rate ? b : a));
  const most = farthest([...points, ...shown]), span = [0, most];
  const traces = [
    { x: [...xs, ...xs.slice().reverse()], y: [...points.map((e) => e.high), ...points.map((e) => e.low).reverse()],
      fill: "toself", fillcolor: withAlpha(ink, .13),
      line: { width: 0 }, mode: "lines", hoverinfo: "skip", name: "95 % band (Wilson)" },
    { x: span, y: [first.rate, first.rate], mode: "lines", line: { dash: "dash", color: colour("ink-3"), width: 1.5 },
      name: `${method.goes_on ? "SFT level" : "before practice"} ${percent(first.rate)}`, hoverinfo: "skip" },
    { x: xs, y: points.map((e) => e.rate), mode: "lines+markers", line: { color: ink, width: 2 },
      marker: { size: 6, color: ink }, name: "true success",
      customdata: points.map((e) => [
        e.successes, e.n, e.version, percent(e.low), percent(e.high),
        speedAndFalls(e).map((line) => `<br>${line}`).join(""),
      ]),
      hovertemplate: "%{y:.1%} (%{customdata[0]} of %{customdata[1]})<br>band %{customdata[3]} to %{customdata[4]}" +
        "%{customdata[5]}<br>%{x} practice episodes<br>policy v%{customdata[2]}<extra></extra>" },
    { x: [best.practice_episodes ?? 0], y: [best.rate], mode: "markers", cliponaxis: false,
      marker: { size: 14, symbol: "star", color: ink, line: { color: colour("surface"), width: 1 } },
      name: `best, kept: v${best.version}`, hoverinfo: "skip" },
    ...(shown.length ? [stationsTrace(shown)] : []),
  ];
  plotSuccess(traces, most);
  $("#success").dataset.points = points.length;
  showKept(first, best);
  const learned = learnedOf(last.practice_episodes, run.practice_episodes);
  setText(field("success-note"),
    `now ${percent(last.rate)} (${last.successes} of ${last.n}) after learning from ${learned}`);
}

const farthest = (rows) => Math.max(20, ...rows.map((e) => e.practice_episodes ?? 0));

function plotSuccess(traces, most) {
  Plotly.react($("#success"), traces, layout("practice episodes", "true success", {
    yaxis: { range: [0, 1.02], tickformat: ".0%" }, xaxis: { range: [-0.02 * most, 1.03 * most] },
  }), config);
}

// What real attempts showed, at the practice that its policy had behind it: another marker, each with its own band. Of
// several evaluations of one policy each is a point of its own.
function stationsTrace(shown) {
  const ink = colour("ink");
  return { x: shown.map((e) => e.practice_episodes), y: shown.map((e) => e.rate), mode: "markers", cliponaxis: false,
    name: "on stations, with 95 % band", marker: { size: 11, symbol: "diamond-open", color: ink, line: { width: 2 } },
    error_y: { symmetric: false, array: shown.map((e) => e.high - e.rate),
      arrayminus: shown.map((e) => e.rate - e.low), color: ink, thickness: 1.5, width: 5 },
    customdata: shown.map((e) => [e.successes, e.known, e.version, percent(e.low), percent(e.high), e.unknown,
      e.detected, e.made]),
    hovertemplate: "on stations: %{y:.1%} (%{customdata[0]} of %{customdata[1]} known, %{customdata[5]} unknown)"
      + "<br>band %{customdata[3]} to %{customdata[4]}<br>detected in %{customdata[6]} of %{customdata[7]}"
      + "<br>%{x} practice episodes<br>policy v%{customdata[2]}<extra></extra>" };
}

// Where no world judges the body there is no other series.
function drawStationsAlone(shown) {
  plotSuccess([stationsTrace(shown)], farthest(shown));
  const last = shown.at(-1);
  const unknown = last.unknown ? `, ${last.unknown} unknown` : "";
  setText(field("success-note"), `v${last.version} on stations: ${percent(last.rate)} `
    + `(${last.successes} of ${last.known} known attempts${unknown})`);
}

const EVALUATIONS_MS = 5000;
let evaluationsShown = "";

// Attempts come in and labels change while one looks.
async function refreshEvaluations() {
  const answer = await fetch(`${root}labs/${lab}/runs/${runId}/evaluations`).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  const html = await answer.text();
  if (html === evaluationsShown) return;
  evaluationsShown = html;
  $("#evaluations").innerHTML = html;
  refreshTimes($("#evaluations"));
  draw();
}
setInterval(() => { if (!document.hidden) refreshEvaluations(); }, EVALUATIONS_MS);

const RESOURCES_MS = 10_000;
const GIB = 2 ** 30;
let resources = null;

async function refreshResources() {
  const answer = await fetch(`${root}labs/${lab}/runs/${runId}/resources`).catch(() => null);
  if (!answer?.ok || answer.redirected) return;
  resources = await answer.json();
  drawResources();
}
refreshResources();
setInterval(() => { if (!document.hidden && run.state && !ended()) refreshResources(); }, RESOURCES_MS);

// Processors on the left, bytes on the right; a card's share of its time would need a third axis, so it is told apart
// by its dashes and read in cores' place as a share of 1.
function drawResources() {
  const plot = $("#resources");
  plot.hidden = !resources?.minutes.length;
  if (plot.hidden) {
    setText(field("resources-note"), ended() ? "nothing was measured" : "measured every few seconds while it runs");
    return;
  }
  const xs = resources.minutes, ink = colour("ink"), soft = colour("ink-3");
  const memory = resources.rss.map((bytes) => isNumber(bytes) ? bytes / GIB : null);
  const line = (name, ys, shade, dash, said, second) => ({ x: xs, y: ys, name, mode: "lines",
    line: { color: shade, width: 1.8, dash }, ...(second ? { yaxis: "y2" } : {}),
    hovertemplate: `${said}<br>%{x:.1f} min<extra></extra>` });
  const traces = [line("CPU", resources.cpu, ink, "solid", "%{y:.2f} cores"),
    line("memory", memory, soft, "dash", "%{y:.2f} GiB", true)];
  if (resources.gpu.some(isNumber)) {
    const share = resources.gpu.map((value) => isNumber(value) ? value / 100 : null);
    const held = resources.gpu_memory.map((bytes) => isNumber(bytes) ? bytes / GIB : null);
    traces.push(line("GPU, share of its time", share, ink, "dot", "GPU %{y:.0%}"),
      line("GPU memory", held, soft, "dashdot", "%{y:.2f} GiB on the GPU", true));
  }
  Plotly.react(plot, traces, layout("minutes since its start", "cores", {
    yaxis: { rangemode: "tozero" }, margin: { l: 48, r: 52, t: 8, b: 40 },
    yaxis2: { overlaying: "y", side: "right", rangemode: "tozero", showgrid: false, nticks: 5, tickfont: { size: 11 },
      title: { text: "GiB", font: { size: 12 } }, automargin: true },
  }), config);
  plot.dataset.points = xs.length;
  const parts = resources.drawn < resources.samples
    ? `; of ${resources.samples} samples the mean of each of ${resources.drawn} parts, of memory the peak` : "";
  const last = `${number(resources.cpu.at(-1), 2)} cores, ${number(memory.at(-1), 2)} GiB`;
  setText(field("resources-note"), `${ended() ? "last" : "now"} ${last}${parts}`);
}

// The best of many evaluations on the same seeds flatters; a run that ended measures its kept policy once more on fresh
// ones.
function showKept(first, best) {
  const done = of("done").at(-1);
  if (!done) return;
  const fresh = isNumber(done.kept_success);
  $("#result-panel").hidden = false;
  const rate = percent(fresh ? done.kept_success : best.rate);
  setText(field("result"), `Kept policy v${best.version}: ${rate} true success`);
  const figures = ["n", "low", "high", "steps_to_success", "falls"];
  const judged = (name) => Object.fromEntries(figures.map((key) => [key, done[`${name}_${key}`]]));
  const measured = fresh
    ? `Measured on ${done.kept_n} evaluation episodes with fresh seeds, ${bandSpeedAndFalls(judged("kept"))}.`
    : `${best.successes} of ${best.n}, ${bandSpeedAndFalls(best)}, on the same seeds by which it was chosen.`;
  const before = fresh && isNumber(done.start_success) ? { ...judged("start"), rate: done.start_success } : first;
  const numbers = [`${percent(before.rate)} of ${before.n}`, ...speedAndFalls(before)].join(", ");
  setText(field("result-note"), `${measured} Before practice: ${numbers}.`);
}

// What the run's method declares (training/methods/registry.py): a plot each, of the metrics that it names.
function drawCurves() { method.curves.forEach(drawCurve); }

function drawCurve(curve, index) {
  const plot = $(`#curve-${index}`), note = field(`curve-${index}-note`), rows = of(curve.metric);
  plot.hidden = !rows.length && ended();
  if (!rows.length) { setText(note, ended() ? curve.empty : curve.waiting); return; }
  setText(note, curve.note || `${curve.x_title} ${rows.at(-1)[curve.x]}`);
  const traces = curve.lines.map((line) => traceOf(curve, line, rows)).filter((trace) => trace.x.length);
  const second = { overlaying: "y", side: "right", tickmode: "auto", nticks: 5, showgrid: false, tickfont: { size: 11 },
    title: { text: curve.second_title, font: { size: 12 } }, automargin: true };
  Plotly.react(plot, traces, layout(curve.x_title, curve.y_title, {
    xaxis: curve.whole ? { tick0: 0, dtick: Math.max(1, Math.ceil(rows.length / 10)) } : { rangemode: "tozero" },
    yaxis: curve.share ? { range: [0, 1.02], tickformat: ".0%" } : { rangemode: "tozero" },
    ...(curve.second_title ? { yaxis2: second, margin: { l: 48, r: 48, t: 8, b: 40 } } : {}),
  }), config);
  plot.dataset.points = rows.length;
}

function traceOf(curve, line, rows) {
  const having = rows.filter((row) => isNumber(row[line.key]));
  const format = line.second ? ".2f" : curve.share ? ".1%" : ".3f";
  return {
    x: having.map((row) => row[curve.x]), y: having.map((row) => row[line.key]), name: line.name,
      ...(line.second ? { yaxis: "y2" } : {}),
    mode: line.marks ? "lines+markers" : "lines", marker: { size: 5, ...(line.second ? { symbol: "square" } : {}) },
    line: { color: colour(line.soft ? "ink-3" : "ink"), dash: line.dash, width: line.width },
    hovertemplate: `${line.name} %{y:${format}}<br>${curve.x_title} %{x}<extra></extra>`,
  };
}

function drawCheckpoints() {
  if (!checkpoints.length) return;
  const newest = checkpoints.slice().sort((a, b) => b.version - a.version || (a.role < b.role ? -1 : 1)).slice(0, 12);
  $("#checkpoints").replaceChildren(...newest.map((checkpoint) => {
    const row = document.createElement("tr");
    // Stations load policies of what practises only; of training's two the threshold is what one wants to know.
    const role = checkpoint.role.replace("_", " ");
    const kept = checkpoint.version === run.kept_version && checkpoint.role === "policy" ? " ★ kept" : "";
    const cells = method.practises
      ? [role, `v${checkpoint.version}${kept}`, null,
        isNumber(checkpoint.staleness_s) ? `${checkpoint.staleness_s.toFixed(1)} s` : "–"]
      : [role, `v${checkpoint.version}`,
        isNumber(checkpoint.threshold) ? `success at d ≤ ${checkpoint.threshold.toFixed(1)}` : "–"];
    cells.forEach((text, index) => {
      const cell = row.insertCell();
      if (index === 1 || index === 3) cell.className = "number";
      else cell.className = "nowrap";
      if (method.practises && index === 2 && checkpoint.published_at) {
        const time = document.createElement("time");
        time.dateTime = checkpoint.published_at;
        cell.append(time);
      } else if (index === 0) {
        const link = document.createElement("a");
        link.href = `${root}labs/${lab}/checkpoints/${checkpoint.id}`;
        link.textContent = text;
        cell.append(link);
      } else cell.textContent = text ?? "not published";
    });
    return row;
  }));
  refreshTimes($("#checkpoints"));
}

function drawStations() {
  const list = $("#stations");
  if (!list || !stations.length) return;
  list.replaceChildren(...stations.map((station) => {
    const row = document.createElement("li");
    row.className = "between";
    const link = document.createElement("a");
    link.href = `${root}labs/${lab}/stations/${station.slug}`;
    link.textContent = station.name ?? station.slug;
    const state = $("[data-f=state]").cloneNode(true);
    state.removeAttribute("data-f");
    state.classList.remove("tag");
    setState(state, station.connected === false ? "offline" : station.state);
    row.append(link, state);
    return row;
  }));
}

function drawHead() {
  const word = { queued: "Queued", starting: "Starting", running: "Running", pausing: "Pausing", canceling: "Canceling",
    canceled: "Canceled", failed: "Failed", completed: "Completed" }[run.state] ?? stateWord(run.state);
  setState(field("state"), run.state, word);
  for (const element of document.querySelectorAll("[data-when]")) {
    element.hidden = !element.dataset.when.split(" ").includes(run.state);
  }
  if (run.worker) {
    setText(field("worker"), `, ${ended() || run.state === "queued" ? "last on" : "on"} the worker ${run.worker}`);
  }
  const error = $("#error");
  error.hidden = !run.error;
  setText(error, run.error ?? "");
  const stands = drawWaiting();
  $("#progress-panel").hidden = ended() && run.state !== "failed";
  $("#progress").value = run.progress ?? 0;
  const phase = method.phases[run.phase] ?? run.phase;
  setText(field("phase"), phase
    || { queued: "Waiting for its turn", starting: "Starting", paused: "Paused" }[run.state] || word);
  setText(field("eta"), isNumber(run.eta_s) && run.state === "running" && !stands
    ? `${percent(run.progress)}, about ${duration(run.eta_s)} left` : percent(run.progress));
  const holding = run.holding ? "; its stations wait for the next policy" : "";
  setText(field("round"), run.round_target
    ? `Round of policy v${run.open_version ?? 0}: ${run.round_steps} of ${run.round_target} practice steps${holding}. `
      + `${run.practice_episodes ?? 0} practice episodes so far.` : "");
}

// A round closes when its stations have filled it: where people keep them waiting, the run waits too, and says so.
// Returns whether it stands still: then nobody knows how long it will take.
function drawWaiting() {
  const there = stations.filter((station) => station.connected !== false);
  const wanting = there.filter((station) => STATES[station.state]?.until_person
    && Date.now() - (station.since ?? 0) > SETTLED_MS);
  const waits = run.state === "running"
    && (wanting.length > 0 || (method.practises && stations.length > 0 && there.length === 0));
  $("#waiting").hidden = !waits;
  if (!waits) return false;
  const of_all = `${wanting.length} of ${stations.length} station${stations.length === 1 ? "" : "s"}`;
  const words = there.length === 0 ? "none of its stations is connected."
    : wanting.every((each) => each.state === "needs_person")
      ? `${of_all} need${wanting.length === 1 ? "s" : ""} a person.`
      : `${of_all} ${wanting.length === 1 ? "is" : "are"} stopped, paused or in need of a person.`;
  const stands = wanting.length === there.length;
  setText(field("waiting"), `${stands ? "Waiting" : "Slower than it could be"}: ${words}`);
  return stands;
}

const LOGGED = {
  note: (data) => data.text,
  update: (data) => `policy v${data.version} is learned, after ${data.episodes} episodes in all; `
    + ("mean_return" in data
      ? `its round had ${data.steps} steps, ${percent(data.detected_rate)} detected success and a mean return of `
        + number(data.mean_return, 2)
      : `${count(data.steps)} steps and ${count(data.updates)} updates`),
  evaluation: (data) => `policy v${data.version ?? 0} is evaluated: ${data.successes} of `
    + [`${data.n} succeeded`, ...speedAndFalls(data)].join(", "),
  kept: (data) => `policy v${data.version} is kept as the best so far`,
};

function drawLog() {
  const log = $("#log");
  const told = metrics.filter((metric) => metric.kind in LOGGED).slice(-200);
  const notes = told.map((metric) => `${timeOfDay(new Date(metric.at))}  ${LOGGED[metric.kind](metric.data)}`);
  const atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 30;
  setText(log, [...notes, ...(run.log ?? [])].join("\n") || "Nothing written yet.");
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function draw() {
  if (pending) return;
  pending = true;
  requestAnimationFrame(() => {
    pending = false;
    drawHead();
    drawSuccess();
    drawCurves();
    drawCheckpoints();
    drawLog();
    if (resources) drawResources();
  });
}

// What can be done with an ended run (its checkpoint to use, the studio, evaluations) is the server's to write.
function showWhatCameOfIt() {
  const writes = [...document.querySelectorAll("#notes input, #notes textarea")].some((each) =>
    each.value !== each.defaultValue);
  if (!writes && !document.querySelector("dialog[open]")) location.reload();
}

live.subscribe(`run:${lab}/${runId}`, { subscribe: "run", lab, run: runId }, (type, data) => {
  const went = run.state && !ended();
  if (type === "snapshot") {
    run = data.run;
    metrics = data.metrics;
    checkpoints = data.checkpoints;
    stations = data.stations;
    drawStations();
  } else {
    if (data.run) run = { ...run, ...data.run };
    for (const changed of data.checkpoints ?? []) {
      checkpoints = [...checkpoints.filter((each) => each.id !== changed.id), changed];
    }
    if (data.metrics) {
      const known = metrics.at(-1)?.seq ?? -1;
      metrics.push(...data.metrics.filter((metric) => metric.seq > known));
    }
  }
  if (went && ended()) showWhatCameOfIt();
  draw();
});

// Its stations' states come from the wall; all else that the wall says is not of this page.
if (method.practises) live.subscribe(`wall:${lab}`, { subscribe: "wall", lab }, (type, data) => {
  let moved = false;
  for (const card of data.stations ?? [data.card]) {
    const station = stations.find((each) => each.slug === card?.slug);
    for (const name of ["state", "connected"]) {
      if (station && name in card && station[name] !== card[name]) {
        station[name] = card[name];
        station.since = Date.now();
        moved = true;
      }
    }
  }
  if (moved) drawStations();
});
setInterval(() => { if (run.state) drawHead(); }, 1000);
document.addEventListener("themechange", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

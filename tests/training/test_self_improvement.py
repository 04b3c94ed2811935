import dataclasses
import json
import struct
import uuid

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.numpy import save as numpy_save
from safetensors.torch import save

from robots.embodiments import STATE
from robots.episodes import Episode, read_episodes, rows_of, unchecked_bytes, write_episodes
from robots.tasks import get_task
from robots.worlds import WorldError
from training import critics, value_head
from training.advantage_weighted import AdvantageWeighted
from training.checkpoints import CheckpointError, Policy, load_checkpoint, save_checkpoint
from training.critics import Critic, Memory
from training.evaluation import Evaluation, evaluate
from training.handed_in import gather, labels
from training.intervals import wilson
from training.local_practice import LocalStations, rules_for
from training.methods import self_improvement
from training.methods.self_improvement import improve
from training.policy_gradient import PolicyGradient, progress_rewards
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir, RunError
from training.success_curve import past_the_peak
from training.value_head import success_bins_of
from training.versions import policy_path

TASKS = ["block2block", "block_to_place"]


def lines(run, kind):
    return [line for line in run.read_metrics()[0] if line["kind"] == kind]


def practised(demonstration, acted_by: Policy, **changes) -> Episode:
    """A demonstration passed off as practice of a policy."""
    values = {
        "uuid": str(uuid.uuid4()),
        "actors": demonstration.actors * 0,
        "purpose": "practice",
        "ending": "time_limit",
        "policy": acted_by.id,
        "true_success": False,
    }
    return dataclasses.replace(demonstration, **values | changes)


def scripted_practice(demonstrations, **changes):
    """Stands for the stations: a version's round always holds the same four episodes, so that a run has one outcome
    only.
    """

    def practise(run, policy, reward_model, steps):
        chosen = [demonstrations[(policy.version + number) % len(demonstrations)] for number in range(4)]
        episodes = [practised(demonstration, policy, **changes) for demonstration in chosen]
        write_episodes(run.episodes / f"{policy.version:06d}.safetensors", episodes)
        run.close_round(policy.version)

    return practise


def newest_weights(run):
    path = sorted(run.checkpoints.glob("policy-*.safetensors"))[-1]
    return path.name, {name: array.tobytes() for name, array in load_file(path).items()}


def test_the_whole_loop_in_one_process(new_improve_run):
    run = new_improve_run()
    stations = LocalStations(TASKS, 4, seed=1)
    summary = improve(run, stations)
    stations.close()
    published = lines(run, "checkpoint")
    assert [line["version"] for line in published] == list(range(summary["version"] + 1))
    assert all(line["publish"] and line["role"] == "policy" for line in published)
    assert len({line["id"] for line in published}) == len(published)
    # The SFT level is the first point of the curve, the last version its last.
    curve = lines(run, "evaluation")
    assert (curve[0]["version"], curve[0]["practice_episodes"]) == (0, 0)
    assert (curve[-1]["version"], curve[-1]["practice_episodes"]) == (summary["version"], summary["practice_episodes"])
    assert summary["practice_episodes"] >= 12 and summary["stale"] == 0
    assert lines(run, "kept")[-1]["version"] == summary["kept_version"]
    episodes = [episode for path in sorted(run.episodes.glob("*")) for episode in read_episodes(path)]
    assert {episode.policy for episode in episodes} <= {line["id"] for line in published}
    assert improve(run) == summary  # what is done is not done again


def test_the_last_word_on_the_kept_version_is_spoken_on_fresh_seeds(new_improve_run, demonstrations, monkeypatch):
    """Version 4 looks best on the curve by luck; on other seeds it isn't, and that is what the summary says."""
    asked = []

    def fake(policy, tasks, episodes, seed, **as_practised):
        asked.append((policy.version, seed))
        fresh = seed != 1_000_000
        return Evaluation({0: 1, 4: 2 if fresh else 4}.get(policy.version, 0), episodes, 0.1, 0.9, 10.0, 10.0, 0)

    monkeypatch.setattr("training.evaluation.evaluate", fake)
    summary = improve(new_improve_run(max_episodes=24), scripted_practice(demonstrations))
    assert [version for version, seed in asked if seed == 1_000_000] == [0, 2, 4, 6]
    assert [version for version, seed in asked if seed != 1_000_000] == [0, 4]
    assert summary["kept_version"] == 4
    assert (summary["start_success"], summary["kept_success"]) == (1 / 4, 2 / 4)
    assert (summary["kept_n"], summary["kept_low"], summary["kept_high"]) == (4, 0.1, 0.9)
    assert (summary["kept_steps_to_success"], summary["kept_falls"]) == (10.0, 0)


def curve(*successes, n=100):
    """version -> evaluation"""
    points = {}
    for version, count in enumerate(successes):
        low, high = wilson(count, n)
        points[version] = {"successes": count, "n": n, "low": low, "high": high}
    return points


def test_the_guard_waits_for_several_evaluations_clearly_below_the_best():
    assert past_the_peak(curve(40, 90, 70, 60, 50), patience=3)
    assert not past_the_peak(curve(40, 90, 70, 60), patience=3)
    assert not past_the_peak(curve(40, 90, 70, 85, 50), patience=3)  # 85 of 100 is within the best one's interval
    assert not past_the_peak(curve(40, 90, 50, 50, 50, 50), patience=0)
    assert not past_the_peak(curve(40), patience=1)


@pytest.mark.parametrize("patience, last", [(2, 3), (0, 6)])
def test_a_run_well_past_its_peak_stops_and_keeps_the_peak(
    new_improve_run, demonstrations, monkeypatch, patience, last
):
    def fake(policy, tasks, episodes, seed, **as_practised):
        count = {0: 40, 1: 90}.get(policy.version, 30)
        return Evaluation(count, 100, *wilson(count, 100), 10.0, 10.0, 0)

    monkeypatch.setattr("training.evaluation.evaluate", fake)
    run = new_improve_run(max_episodes=24, evaluate_every=1, patience=patience)
    summary = improve(run, scripted_practice(demonstrations))
    assert (summary["version"], summary["kept_version"], summary["success"]) == (last, 1, 0.3)
    assert bool(patience) == any("Stopped" in line["text"] for line in lines(run, "note"))


def test_only_what_was_probes_tells_what_comes_of_attempts_of_low_success_probability(loaded, demonstrations):
    policy, _ = loaded
    given_up = success_bins_of(practised(demonstrations[0], policy, ending="low_success_probability"), policy)
    assert (given_up[-3:] == -1).all() and (given_up[:-3] == 49).all()
    assert (success_bins_of(practised(demonstrations[0], policy, ending="operator"), policy) == -1).all()


def test_another_family_is_asked_only_where_it_is_practised():
    rules = {"edge_margin": 0.01, "after_failure": "block_to_place"}
    task = get_task("block2block")
    assert rules_for(task, rules, ["block2block", "block_to_place"]) == rules
    assert rules_for(task, rules, ["block2block"]) == {"edge_margin": 0.01}
    assert rules_for(get_task("point_mass"), rules, ["point_mass", "block_to_place"]) == {"edge_margin": 0.01}


def test_weights_that_are_no_numbers_end_local_practice(new_improve_run, loaded):
    """Its stations would reset and ask again for ever."""
    policy, reward_model = loaded
    for parameter in policy.network.action_head.parameters():
        parameter.fill_(np.nan)
    stations = LocalStations(TASKS, 2, seed=1)
    with pytest.raises(RunError, match="no usable action"):
        stations(new_improve_run(), policy, reward_model, steps=10)
    stations.close()


def test_a_table_that_needs_a_reset_is_far_from_the_goal(loaded, demonstrations):
    """Whatever the reward model says of it, and only if the policy's own step led there."""
    policy, reward_model = loaded
    attempt = practised(demonstrations[0], policy)
    fallen = practised(demonstrations[0], policy, ending="needs_reset")
    before, after = (progress_rewards(each, each.steps, reward_model, policy) for each in (attempt, fallen))
    assert after[:-1] == pytest.approx(before[:-1])
    d, _ = reward_model.steps_to_go(attempt.observations, [attempt.instruction] * (attempt.steps + 1))
    assert after[-1] == pytest.approx(d[-2] - 98.5, abs=1e-4)  # the last of 50 bins of 2 steps
    cut = progress_rewards(fallen, fallen.steps - 1, reward_model, policy)
    assert cut == pytest.approx(before[:-1], abs=1e-4)  # of another batch, so not to the bit


def test_the_words_and_the_reward_model_stay_as_stage_1_left_them(new_improve_run, demonstrations, loaded):
    run, practise, judged = new_improve_run(evaluation_episodes=0), scripted_practice(demonstrations), []

    def watched(run, policy, reward_model, steps):
        judged.append({name: tensor.clone() for name, tensor in reward_model.network.state_dict().items()})
        practise(run, policy, reward_model, steps)

    improve(run, watched)
    of_stage_1 = loaded[1].network.state_dict()
    assert len(judged) == 3 and all(weights[name].equal(of_stage_1[name]) for weights in judged for name in of_stage_1)
    before = load_file(run.start / "policy.safetensors")
    after = load_file(sorted(run.checkpoints.glob("policy-*"))[-1])
    changed = {name.split(".")[0] for name in before if (before[name] != after[name]).any()}
    assert changed == {"trunk", "action_head", "steps_to_go_head"}


def test_the_prediction_learns_how_attempts_end_and_changes_nothing_that_the_policy_does(
    new_improve_run, demonstrations, monkeypatch
):
    def practise(name, **changes):
        run = new_improve_run(name, evaluation_episodes=0)
        improve(run, scripted_practice(demonstrations, **changes))
        return Policy.load(sorted(run.checkpoints.glob("policy-*"))[-1])

    failed = practise("failed")  # at the time limit
    reached = practise("reached", ending="detected_success", detected_success=True)
    stopped = practise("stopped", ending="operator")  # nobody knows what would have come of it
    assert failed.metadata.value_updates == failed.version and stopped.metadata.value_updates == 0
    attempt = demonstrations[0]
    seen = rows_of(attempt.observations, slice(attempt.steps)), [attempt.instruction] * attempt.steps
    of_failed, of_reached, of_stopped = (
        policy.answer(*seen, greedy=True).prediction[:, -1].mean() for policy in (failed, reached, stopped)
    )
    assert of_failed > of_stopped + 0.02 and of_reached < of_failed - 0.02
    monkeypatch.setattr(value_head, "EPOCHS", 0)
    without = practise("without").network.state_dict()
    differ = {name for name, tensor in failed.network.state_dict().items() if (tensor != without[name]).any()}
    assert {name.split(".")[0] for name in differ} == {"steps_to_go_head"}


def test_true_success_teaches_nothing(new_improve_run, demonstrations):
    ends = []
    for name, said in (("failed", False), ("succeeded", True), ("unknown", None)):
        run = new_improve_run(name, evaluation_episodes=0)
        improve(run, scripted_practice(demonstrations, true_success=said))
        ends.append(newest_weights(run))
    assert ends[0] == ends[1] == ends[2]


def weights_of(run, version):
    return load_file(policy_path(run, version))


def moved(run, version) -> float:
    """How far the trunk of a version is from stage 1's."""
    start, end = load_file(run.start / "policy.safetensors"), weights_of(run, version)
    return sum(float(np.abs(end[name] - start[name]).sum()) for name in start if name.startswith("trunk"))


def test_each_setting_of_the_update_does_what_it_says(new_improve_run, demonstrations):
    def after(name, **settings):
        run = new_improve_run(name, evaluation_episodes=0, **settings)
        improve(run, scripted_practice(demonstrations))
        return run

    plain = {"replay": 0, "gamma": 0.9, "anneal": 0.0}
    steady, annealed = after("steady", **plain), after("annealed", **plain | {"anneal": 1.0})
    assert moved(steady, 1) == moved(annealed, 1), "nothing is spent yet"
    assert moved(annealed, 3) < 0.95 * moved(steady, 3)
    assert moved(after("clipped", **plain, clip=0.01), 3) < 0.9 * moved(after("unclipped", **plain, clip=100.0), 3)
    assert moved(after("criticised", **plain, baseline=1.0), 3) != moved(steady, 3)
    again = {"anneal": 0.0}
    replayed = after("replayed", **again)
    assert moved(after("replayed, annealed", anneal=1.0), 3) < 0.95 * moved(replayed, 3)
    assert moved(after("replayed, more", **again, updates_per_step=0.1), 3) > 1.05 * moved(replayed, 3)
    for name, value in (("temperature", 5.0), ("shaping", 0.0), ("replay", 3)):
        assert moved(after(f"replayed, other {name}", **again | {name: value}), 3) != moved(replayed, 3)


def test_the_critic_learns_what_to_expect_and_remembers_the_newest_rounds(loaded, demonstrations):
    policy, _ = loaded
    attempt = demonstrations[0]
    perceived = policy.perceive(rows_of(attempt.observations, slice(attempt.steps))).clone()
    goals = policy.goals([attempt.instruction] * attempt.steps).clone()
    returns = torch.linspace(-1, 1, attempt.steps)
    critic, memory = Critic(policy.network.features.size), Memory(policy.network.device)
    assert not critic.values(policy.network, perceived, goals).any(), "nothing is expected yet"
    optimiser = torch.optim.AdamW(critic.parameters(), lr=1e-2)
    for _ in range(10):
        memory.add(perceived, goals, returns)
        critic.learn(
            policy.network,
            memory,
            torch.Generator().manual_seed(1),
            lambda loss: (optimiser.zero_grad(), loss.backward(), optimiser.step()),
        )
    assert (critic.values(policy.network, perceived, goals) - returns).abs().mean() < 0.2
    assert len(memory.rounds) == critics.ROUNDS
    restored = Memory(policy.network.device)
    restored.load_state_dict(memory.state_dict())
    assert all(a.equal(b) for a, b in zip(restored.all(), memory.all(), strict=True))


def test_the_same_seed_gives_the_same_bits(new_improve_run, demonstrations):
    runs = [new_improve_run(name, seed=seed, evaluation_episodes=0) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for run in runs:
        improve(run, scripted_practice(demonstrations))
    assert newest_weights(runs[0]) == newest_weights(runs[1]) != newest_weights(runs[2])


def test_a_seed_decides_practice_on_local_stations_to_the_bit(new_improve_run):
    ends = []
    for name in ("a", "b"):
        run, stations = new_improve_run(name, evaluation_episodes=0), LocalStations(TASKS, 3, seed=5, time_limit=12)
        improve(run, stations)
        stations.close()
        acted = [
            episode.actions.tobytes() for path in sorted(run.episodes.glob("*")) for episode in read_episodes(path)
        ]
        ends.append((newest_weights(run), acted))
    assert ends[0] == ends[1] and len(ends[0][1]) > 3


@pytest.mark.parametrize("moment", ["before the state is saved", "after the state is saved"])
def test_a_killed_run_goes_on_and_ends_in_the_same_bits(new_improve_run, demonstrations, monkeypatch, moment):
    practise = scripted_practice(demonstrations)
    whole, killed = new_improve_run("whole"), new_improve_run("killed")
    improve(whole, practise)

    class Killed(Exception):
        pass

    save = self_improvement.save_state

    def save_until_killed(path, progress, *rest, **networks):
        if progress["version"] == 2 and moment.startswith("before"):
            raise Killed
        save(path, progress, *rest, **networks)
        if progress["version"] == 2:
            raise Killed

    monkeypatch.setattr(self_improvement, "save_state", save_until_killed)
    with pytest.raises(Killed):
        improve(killed, practise)
    monkeypatch.undo()
    improve(killed, practise)
    assert newest_weights(killed) == newest_weights(whole)
    # Nothing is said twice and nothing is left out.
    for kind in ("checkpoint", "evaluation", "update", "kept"):
        assert [line["version"] for line in lines(killed, kind)] == [line["version"] for line in lines(whole, kind)]


def test_a_state_from_before_there_was_a_critic_goes_on(new_improve_run, demonstrations, monkeypatch):
    run, save = new_improve_run(evaluation_episodes=0), self_improvement.save_state

    def save_as_before(path, progress, optimiser, generator, network, **_):
        save(path, progress, optimiser, generator, network=network)
        first = len([*network.trunk.parameters(), *network.action_head.parameters()])
        last = first + len(list(network.steps_to_go_head.parameters()))
        kept = {
            name: array
            for name, array in load_file(path).items()
            if not name.startswith("optimiser.") or int(name.split(".")[1]) < last
        }
        path.write_bytes(numpy_save(kept, metadata={"progress": json.dumps(progress)}))
        if progress["version"] == 1:
            moments = kept[f"optimiser.{first}.exp_avg"]
            assert moments.shape == network.steps_to_go_head.weight.shape, "as those older states have them"
            raise KeyboardInterrupt

    monkeypatch.setattr(self_improvement, "save_state", save_as_before)
    with pytest.raises(KeyboardInterrupt):
        improve(run, scripted_practice(demonstrations))
    monkeypatch.undo()
    assert improve(run, scripted_practice(demonstrations))["version"] == 3


def test_a_run_killed_between_an_evaluation_and_its_mark_marks_it_afterwards(
    new_improve_run, demonstrations, monkeypatch
):
    practise = scripted_practice(demonstrations)
    whole, killed = new_improve_run("whole"), new_improve_run("killed")
    improve(whole, practise)
    log = killed.log

    def log_until_killed(kind, **values):
        if kind == "kept":
            raise KeyboardInterrupt
        log(kind, **values)

    monkeypatch.setattr(killed, "log", log_until_killed)
    with pytest.raises(KeyboardInterrupt):
        improve(killed, practise)
    monkeypatch.undo()
    improve(killed, practise)
    for kind in ("checkpoint", "evaluation", "update", "kept"):
        assert [line["version"] for line in lines(killed, kind)] == [line["version"] for line in lines(whole, kind)]


def test_practice_without_a_simulator_goes_on_with_a_note(new_improve_run, demonstrations, monkeypatch):
    """As a real robot's does: there is no success curve, and all else is as ever."""

    def no_world(name, seed):
        raise WorldError("There is no world 'arm'.")

    monkeypatch.setattr("training.evaluation.Worlds", no_world)
    run = new_improve_run()
    summary = improve(run, scripted_practice(demonstrations))
    assert summary["version"] == 3 and "success" not in summary and not lines(run, "evaluation")
    notes = [line["text"] for line in lines(run, "note")]
    assert notes.count("Not evaluated in simulation: There is no world 'arm'.") == 1


def test_stale_and_foreign_episodes_are_dropped_and_counted(new_improve_run, loaded, demonstrations):
    run, (policy, _) = new_improve_run(), loaded
    write_episodes(
        run.episodes / "b.safetensors",
        [practised(demonstrations[0], policy), practised(demonstrations[1], policy, policy="old")],
    )
    write_episodes(run.episodes / "a.safetensors", [practised(demonstrations[2], policy)])
    write_episodes(
        run.episodes / "c.safetensors",
        [
            practised(demonstrations[i], policy, purpose=purpose)
            for i, purpose in ((3, "evaluation"), (4, "correction"))
        ],
    )
    (run.episodes / "d.safetensors").write_bytes(b"broken")
    (run.episodes / "e.safetensors").write_bytes((run.episodes / "a.safetensors").read_bytes())
    run.close_round(0)
    episodes, files, stale = gather(run, policy, consumed=["e.safetensors"])
    assert [episode.instruction for episode in episodes] == [demonstrations[i].instruction for i in (2, 0)]
    assert files == [f"{name}.safetensors" for name in "abcd"] and stale == 1
    assert "d.safetensors is left out" in lines(run, "note")[-1]["text"]


def test_a_persons_steps_never_enter_the_gradient(loaded, demonstrations):
    policy, reward_model = loaded
    demonstration = demonstrations[0]

    def labelled(**changes):
        return labels([practised(demonstration, policy, **changes)], reward_model, policy, progress_rewards)

    (alone,) = labelled()
    actors = demonstration.actors * 0
    actors[5:8] = 1  # a person takes over, then hands back
    (cut,) = labelled(actors=actors)
    assert (alone.steps, cut.steps, len(cut.rewards)) == (demonstration.steps, 5, 5)
    # Nor does what the person achieved: the rewards end where the policy's part ends.
    d, _ = reward_model.steps_to_go(rows_of(demonstration.observations, slice(6)), [demonstration.instruction] * 6)
    assert cut.rewards[4] == pytest.approx(d[4] - d[5], abs=1e-5)
    assert labelled(actors=actors * 0 + 1) == []
    recipe = ImproveRecipe()
    reached = practised(demonstration, policy, actors=actors, ending="detected_success", detected_success=True)
    for learner in (AdvantageWeighted(policy.network, recipe, 1), PolicyGradient(policy.network, recipe)):
        assert learner.rewards(reached, 5, reward_model, policy)[-1] < 0.5, "the success was the person's"
        assert learner.remember(reached, 5, cut.rewards, policy)
        kept = learner.replay.episodes[0] if isinstance(learner, AdvantageWeighted) else learner.round[0]
        assert len(kept[0]) == 5


def test_true_success_and_the_stations_own_d_change_nothing(new_improve_run, demonstrations):
    runs = [new_improve_run(name, evaluation_episodes=0) for name in ("a", "b")]
    lies = np.full_like(demonstrations[0].steps_to_go, 7)
    improve(runs[0], scripted_practice(demonstrations[:1] * 4))
    improve(runs[1], scripted_practice(demonstrations[:1] * 4, true_success=True, steps_to_go=lies))
    assert newest_weights(runs[0]) == newest_weights(runs[1])


def test_old_checkpoints_go_and_evaluated_ones_stay(new_improve_run, demonstrations):
    run = new_improve_run(max_episodes=4 * 12, evaluate_every=5, evaluation_episodes=2)
    improve(run, scripted_practice(demonstrations))
    versions = [int(path.stem.split("-")[1]) for path in sorted(run.checkpoints.glob("policy-*"))]
    assert versions == [0, 5, 8, 9, 10, 11, 12]


def test_a_folder_that_holds_another_recipe_is_refused_and_kept(new_improve_run):
    run = new_improve_run(seed=1)
    recipe = run.recipe(ImproveRecipe)
    with pytest.raises(RunError, match="another recipe"):
        RunDir.create(run.path, dataclasses.replace(recipe, seed=2))
    with pytest.raises(RunError, match="kind"):
        RunDir.create(run.path, SFTRecipe())
    assert RunDir.create(run.path, recipe).recipe(ImproveRecipe) == recipe


def test_a_pause_file_holds_the_run(new_improve_run, loaded, monkeypatch):
    run, (policy, _) = new_improve_run(), loaded
    (run.path / "pause").touch()
    run.close_round(0)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (run.path / "pause").unlink()

    monkeypatch.setattr("training.run_dir.time.sleep", sleep)
    gather(run, policy, consumed=[])
    assert len(waits) == 3


def test_a_policy_and_a_reward_model_of_different_bodies_are_refused(new_improve_run, finished_sft):
    run = new_improve_run()
    network, metadata = load_checkpoint(finished_sft.checkpoints / "policy.safetensors")
    metadata.embodiment = metadata.embodiment | {"name": "another"}
    (run.start / "policy.safetensors").unlink()
    save_checkpoint(run.start / "policy.safetensors", network, metadata)
    with pytest.raises(RunError, match="different embodiments"):
        improve(run)


def test_evaluation_is_the_same_each_time_and_its_starts_do_not_depend_on_how_many(loaded):
    policy, _ = loaded
    first, again = (evaluate(policy, TASKS, 6, seed=9) for _ in range(2))
    assert first == again and first.n == 6 and first.low <= first.rate <= first.high
    with pytest.raises(ValueError, match="no task"):
        evaluate(policy, ["juggle"], 2, seed=1)


# Numbers that are none


def notes(run):
    return [line["text"] for line in lines(run, "note")]


@pytest.mark.parametrize("replay", [0, 1000])
@pytest.mark.parametrize("rewards_of", [None, lambda episode, steps, *_: np.ones(steps)])
def test_an_episode_that_makes_the_loss_no_number_is_left_out_by_name_and_no_nan_is_published(
    new_improve_run, demonstrations, monkeypatch, rewards_of, replay
):
    """Once in the rewards, once in what the networks make of it."""
    run = new_improve_run(evaluation_episodes=0, max_episodes=8, replay=replay)
    found, bad = self_improvement.gather, []

    def gather_with_one_bad(*arguments, **more):
        episodes, files, stale = found(*arguments, **more)
        bad.append(episodes[1].uuid)
        episodes[1].observations[STATE][:] = 3e38
        return episodes, files, stale

    monkeypatch.setattr(self_improvement, "gather", gather_with_one_bad)
    summary = improve(run, scripted_practice(demonstrations), rewards_of)
    assert summary["version"] == 2
    assert [text for text in notes(run) if "left out" in text] == [
        f"Episode {name} is left out: what it teaches is no number." for name in bad
    ]
    updates = lines(run, "update")
    assert [line["left_out"] for line in updates] == [1, 1] and all(line["loss"] is not None for line in updates)
    before, after = (load_file(run.checkpoints / f"policy-{version:06d}.safetensors") for version in (0, 2))
    assert all(np.isfinite(array).all() for array in after.values() if array.dtype.kind == "f")
    assert any((before[name] != after[name]).any() for name in after), "it learned from the others"


def test_episodes_that_the_body_cannot_have_acted_are_left_out_by_name(new_improve_run, loaded, demonstrations):
    run, (policy, _) = new_improve_run(), loaded
    good, absurd, wild = (
        practised(demonstrations[i], policy, actions=demonstrations[i].actions.copy()) for i in (0, 1, 2)
    )
    absurd.actions[2] = 3e38
    wild.actions[1] = 0.5
    endless = practised(demonstrations[3], policy)
    endless.actions, endless.actors = np.zeros((200_000, 2), np.float32), np.zeros(200_000, np.uint8)
    endless.observations = {
        key: np.zeros((200_001, array.shape[1]), np.float32) for key, array in good.observations.items()
    }
    endless.steps_to_go, endless.fenced = np.zeros(200_001, np.float32), np.zeros(200_000, np.uint8)
    for name, episode in (("a", good), ("b", absurd), ("c", wild), ("d", endless)):
        (run.episodes / f"{name}.safetensors").write_bytes(unchecked_bytes([episode]))
    run.close_round(0)
    episodes, files, _ = gather(run, policy, consumed=[])
    assert [episode.uuid for episode in episodes] == [good.uuid] and len(files) == 4
    for episode in (absurd, wild, endless):
        assert [text for text in notes(run) if "left out" in text and f"Episode {episode.uuid}, field" in text]


def test_a_checkpoint_with_a_nan_is_neither_kept_nor_loaded(tmp_path, finished_sft):
    network, metadata = load_checkpoint(finished_sft.checkpoints / "policy.safetensors")
    path = tmp_path / "policy.safetensors"
    save_checkpoint(path, network, metadata)
    before = path.read_bytes()
    for value in (np.nan, np.inf):
        network.action_head.heads[0].bias[3] = value
        with pytest.raises(CheckpointError, match=r"1 of .* tensors hold NaN or infinity, such as action_head.heads.0"):
            save_checkpoint(path, network, metadata)
        assert path.read_bytes() == before
    path.write_bytes(save(network.state_dict(), metadata={"description": json.dumps(dataclasses.asdict(metadata))}))
    with pytest.raises(CheckpointError, match="NaN"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="threshold or recipe"):
        good, _ = load_checkpoint(finished_sft.checkpoints / "policy.safetensors")
        save_checkpoint(path, good, dataclasses.replace(metadata, threshold=float("inf")))


def test_a_checkpoint_with_a_bomb_in_its_header_is_refused_before_it_is_parsed(tmp_path):
    header = b'{"__metadata__":{"description":"' + b"[" * 2_000_000 + b'"}}'
    (tmp_path / "p.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(CheckpointError, match=r"header has 20000.* bytes, more than 1000000"):
        load_checkpoint(tmp_path / "p.safetensors")

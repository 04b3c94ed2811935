"""What the words and letters on the pages mean. This is the one place for these texts: the glossary page, the hover of
a term, the links beside form fields and Ctrl+K are all made from it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    slug: str  # its anchor on the page
    name: str
    short: str  # one sentence: also what hovering a link to it shows
    more: str = ""
    fields: tuple[str, ...] = ()  # form fields whose help ends with a link to it


GROUPS: tuple[tuple[str, tuple[Term, ...]], ...] = (
    (
        "From demonstrations to a better policy",
        (
            Term(
                "station",
                "Station",
                "One robot and its workspace, real or simulated.",
                "A station runs its own program and is connected to this server by a secret token.",
            ),
            Term(
                "embodiment",
                "Embodiment",
                "The kind of a robot: what it observes, which actions it takes, and how often each second.",
                "A policy fits only the embodiment whose data it was trained on. Stations of one embodiment can share "
                "a policy.",
                fields=("embodiment",),
            ),
            Term(
                "step",
                "Step",
                "One turn of the control loop: the robot observes, the policy chooses an action, the robot moves.",
                "Steps are how lengths of episodes, limits and predictions are counted. At 5 steps a second, 50 steps "
                "are 10 seconds.",
            ),
            Term(
                "episode",
                "Episode, or attempt",
                "One try at one instruction, from its first step until it ends.",
                "Why it ended (its “ending”) is kept with it: success detected, time limit, a person, a fault and so "
                "on. Its purpose says what it was for: practice, evaluation, demonstration or correction.",
            ),
            Term(
                "family",
                "Task and family of instructions",
                "A family is a set of similar instructions, such as “push A to B” for all A and B; a task is a family "
                "with limits and rules.",
                "A station draws a new instruction from the family for each episode, out of those that are possible "
                "with the objects on its table.",
                fields=("family", "families", "after_failure", "tasks"),
            ),
            Term(
                "task-in-words",
                "Task in words, slot",
                "A task whose instructions people write themselves, for any body; a slot is a gap in its wording that "
                "is filled from a list.",
                "“put the {object} into the {place}” has two slots. No simulator knows what such words mean, so the "
                "success detector and people's labels alone say whether an attempt succeeded.",
                fields=("wordings", "slots", "held_out_wordings"),
            ),
            Term(
                "demonstration",
                "Demonstration",
                "An episode that shows how to do a task, driven by a person or by a script.",
            ),
            Term(
                "dataset",
                "Dataset",
                "A collection of demonstrations or corrections that a run can be trained on.",
            ),
            Term(
                "correction",
                "Correction",
                "An episode that a person drove by overriding a station.",
                "It shows what would have been right where the policy was wrong. It can join a dataset, and the next "
                "fine-tuning learns from it beside the demonstrations.",
                fields=("corrections",),
            ),
            Term(
                "fine-tuning",
                "Fine-tuning (SFT)",
                "The first stage of training: from demonstrations, a policy and a reward model are learned.",
                "SFT stands for supervised fine-tuning. The “SFT level” of a chart is the success rate of the policy "
                "as it was after this stage, before any practice.",
            ),
            Term(
                "self-improvement",
                "Self-improvement",
                "The second stage of training: stations practise, the reward model judges, and the policy gets better.",
            ),
            Term(
                "policy",
                "Policy",
                "The network that chooses the robot's actions.",
                "Its versions are counted: v0 is where a run starts, and each round of practice makes the next one.",
            ),
            Term(
                "run",
                "Run",
                "One training from start to end, with its recipe, its curves and its checkpoints.",
            ),
            Term("recipe", "Recipe", "The settings of a run, such as how many updates it makes."),
            Term(
                "checkpoint",
                "Checkpoint",
                "The weights of a network as saved at one moment of training.",
            ),
            Term(
                "seed",
                "Seed",
                "The number from which random choices are made: the same seed gives the same choices again.",
                fields=("seed", "evaluation_seed"),
            ),
            Term(
                "round",
                "Round",
                "Practice with one version of the policy, followed by the updates that make the next version.",
                "A round is complete once its stations have collected enough practice steps: updates per round × "
                "batch size.",
                fields=("max_rounds", "updates_per_round"),
            ),
            Term(
                "batch",
                "Batch and update",
                "An update changes the network a little, by what one batch of recorded steps teaches.",
                "The batch size is how many steps are looked at together. The learning rate says how large the change "
                "is; AdamW is the usual method that makes it, and weight decay pulls weights towards zero.",
                fields=("batch", "steps", "learning_rate", "weight_decay"),
            ),
            Term(
                "epoch-training",
                "Epoch (of training)",
                "One pass over the steps of a round; with 8 epochs each step is used 8 times.",
                "Not to be confused with the epoch of a lease.",
                fields=("epochs",),
            ),
            Term(
                "staleness",
                "Staleness",
                "How long stations went on with an older policy: from publishing a version until all stations of the "
                "run had loaded it.",
            ),
            Term(
                "discount",
                "Discount (gamma)",
                "How much later rewards count: with 0.8, the reward of the next step counts 0.8 of this step's.",
                fields=("gamma",),
            ),
            Term(
                "return",
                "Reward and return",
                "The reward of a step is how many steps closer to the goal it came, by the reward model's d. The "
                "return is the sum of rewards.",
            ),
            Term(
                "grounding",
                "Grounding",
                "Learning which object a word means.",
                "Fine-tuning begins with it: from what moved in a demonstration and the words of its instruction, the "
                "network learns to tell the objects apart by name.",
                fields=("grounding_steps", "perception_steps"),
            ),
            Term(
                "nats",
                "Nats",
                "The unit of the loss curves: how surprised the network is by the right answer, by natural logarithms.",
                "Lower is better; 0 would be certainty. A guess among 7 equally likely choices costs ln 7 = 1.95 nats.",
            ),
            Term(
                "held-out",
                "Validation, held-out episodes",
                "Episodes that are set aside and not learned from, to measure how well the rest was learned.",
                fields=("validation_fraction", "validate_every"),
            ),
            Term(
                "clip",
                "Clip",
                "A bound on how far one round may change the probability of an action that was taken.",
                "It keeps one unlucky round from spoiling the policy, as in the method called PPO.",
                fields=("clip",),
            ),
            Term(
                "critic",
                "Critic",
                "A small network that learns what an attempt will come to: an action is praised for what it adds.",
                "It learns during practice. It judges no attempt: the reward model does.",
                fields=("baseline",),
            ),
            Term(
                "replay",
                "Replay",
                "The newest practice episodes, which the policy learns from again and again.",
                "Actions that did better than the critic expected count more. Without a replay each round is used once "
                "and dropped, as in the paper.",
                fields=("replay",),
            ),
        ),
    ),
    (
        "Judging an attempt",
        (
            Term(
                "steps-to-go",
                "Steps to go, d",
                "How many more steps the reward model expects until the instruction is fulfilled. d is the mean.",
                "The network predicts a whole distribution (the shade of the strip); its mean is the number d. d falls "
                "while an attempt gets closer to its goal. Where it rises suddenly, something slipped or was dropped: "
                "these largest rises are called events.",
                fields=("bins", "bin_width", "stall_steps", "regression"),
            ),
            Term(
                "progress",
                "Progress",
                "How far d has fallen since the attempt began: 0 % at its start, 100 % at the goal.",
            ),
            Term(
                "reward-model",
                "Reward model",
                "The network that predicts steps to go, and so judges every attempt.",
                "It comes out of fine-tuning and is frozen: practice improves the policy and never its judge.",
            ),
            Term(
                "success-detector",
                "Success detector: threshold s, k frames",
                "It calls an attempt a success once d is at most s on k frames in a row.",
                "s (in steps) and k are chosen after fine-tuning, on held-out demonstrations, so that few of them are "
                "called a success too early. A frame is the observation of one step.",
                fields=("threshold_margin", "premature_share", "consecutive", "largest_threshold"),
            ),
            Term(
                "spot-check",
                "Spot check",
                "A detected success, drawn at random, that a person looks at and says whether it was one.",
                "As they are a random sample, their answers bound the error of the detector: with 95 % it is wrong no "
                "more often than that. What people label of their own choice is no random sample and doesn't count.",
                fields=("audit_share",),
            ),
            Term(
                "detected-success",
                "Detected success",
                "The success detector called the attempt a success. It can be wrong.",
                "It is what the robot can know by itself, and all that practice learns from.",
            ),
            Term(
                "true-success",
                "True success",
                "The instruction was really fulfilled, as the simulator or a person says.",
                "It is only reported, and never used in training. On a real robot it is unknown until a person marks "
                "the episode.",
            ),
            Term(
                "evaluation",
                "Evaluation, n and the 95 % band",
                "Attempts that only measure: how often a policy succeeds in n fresh tries.",
                "Few tries say little, so a band comes with the rate: the true rate lies within it 95 times of 100 "
                "(Wilson's interval).",
                fields=("evaluation_episodes", "evaluate_every", "patience"),
            ),
            Term(
                "p-success",
                "P, P(success)",
                "The probability that this attempt succeeds before its time limit, as estimated for this policy.",
                "Unlike the reward model, this estimate goes on learning from the policy's own attempts.",
            ),
            Term(
                "low-success-probability",
                "Low success probability",
                "An attempt whose P(success) stays below a limit that its task sets.",
                "A task can end such attempts early. One in ten goes on all the same, a probe, so that it becomes "
                "known when the policy has got better. The rule holds from the eighth round of practice on.",
                fields=("low_success_probability",),
            ),
        ),
    ),
    (
        "People and stations",
        (
            Term(
                "help-request",
                "Help request",
                "A station's call for a person, with the reason and what helps.",
                "The list is sorted by what help is worth: the robot time that it saves, divided by the seconds of "
                "yours that it takes.",
            ),
            Term(
                "intervention",
                "Intervention",
                "An act of a person on a station: a reset, an override, a pause, a stop and so on.",
                "Interventions per robot-hour say how much attention practice needs. A robot-hour is one hour of one "
                "robot at work.",
                fields=("touches",),
            ),
            Term(
                "reset",
                "Reset and shuffle",
                "A reset puts the workspace in order, so that the next attempt can begin. To shuffle is to mix the "
                "objects up.",
                "Practice goes on from where the last attempt left things. A station asks for a person only when "
                "objects are lost, or when it has practised for long without a shuffle.",
                fields=("reset_each_attempt", "alternates", "self_reset_after_s", "shuffle_every_s", "fewest_objects"),
            ),
            Term(
                "override",
                "Override and hand back",
                "Who overrides a station takes control from its policy and drives it; to hand back is to give it back "
                "to the policy.",
            ),
            Term(
                "lease",
                "Lease, and its epoch",
                "The right to control a station, held by a run or by one person at a time.",
                "Each new lease of a station has a number, its epoch, one higher than the last. Commands of an older "
                "epoch are refused, so nobody moves a robot that has passed on to someone else. A person's lease ends "
                "by itself when the browser falls silent.",
            ),
            Term(
                "software-stop",
                "Software stop",
                "Ends all motion of a station through its software, until a person clears it and gives a reason.",
                "It is no rated emergency stop: keep the robot's own switch within reach.",
            ),
            Term(
                "fence",
                "Fence",
                "A margin along the edge of the table: a push by the policy that would bring an object nearer is "
                "turned aside.",
                "A person who drives is not held back by it.",
                fields=("edge_margin",),
            ),
            Term(
                "maintenance",
                "Maintenance",
                "A station that is taken out of work for a while: it stays paused and gets no assignment.",
            ),
            Term(
                "assignment",
                "Assignment and queue",
                "An assignment gives a task to stations and says for how long; the queue says which comes first.",
            ),
        ),
    ),
)
TERMS = {term.slug: term for _, terms in GROUPS for term in terms}
BY_FIELD = {field: term for term in TERMS.values() for field in term.fields}

"""`manage.py try_shift`: an hour of supervision, simulated under several rules for where to go next, and compared.

The shift itself runs in a child process (training/supervision_simulation.py), since it needs the networks; this shows
its progress and the table.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

COLUMNS = ("policy", "successes_per_hour", "touches_per_robot_hour", "utilisation", "human_busy")


class Command(BaseCommand):
    help = "Simulate a shift of one person and many stations under three ways to supervise; the figures go into JSON."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--stations", type=int, default=16, help="simulated stations (1 to 64)")
        parser.add_argument("--hours", type=float, default=1.0, help="length of the shift")
        parser.add_argument("--speed", choices=("1", "4", "max"), default="max", help="times real time")
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--policy", default="", help="checkpoint of a policy; without it one is trained first")
        parser.add_argument("--reward-model", default="", help="the checkpoint that goes with it")
        parser.add_argument("--json", required=True, help="file for the figures")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["stations"] <= 64:
            raise CommandError("--stations must be between 1 and 64.")
        if not 0 < options["hours"] <= 24:
            raise CommandError("--hours must be above 0, at most 24.")
        if bool(options["policy"]) != bool(options["reward_model"]):
            raise CommandError("Give both --policy and --reward-model, or neither.")
        target = Path(options["json"])
        if not target.resolve().parent.is_dir():
            raise CommandError(f"The folder of {target} does not exist: make it first.")
        command = [sys.executable, "-m", "training", "supervision", "--json", str(target)]
        for name in ("stations", "hours", "speed", "seed", "policy", "reward_model"):
            if options[name] != "":
                command += [f"--{name.replace('_', '-')}", str(options[name])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None  # it is a pipe
            for line in child.stdout:
                self.show(line)
        if child.returncode:
            raise CommandError("The simulated shift failed; what went wrong stands above.")
        result = json.loads(target.read_text())
        self.stdout.write("  ".join(f"{name:>24}" for name in COLUMNS))
        for row in result["rows"]:
            self.stdout.write(
                "  ".join(f"{row[name] if name == 'policy' else round(row[name], 3):>24}" for name in COLUMNS)
            )
        self.stdout.write(f"failure prediction: {json.dumps(result['failure_prediction'])}")

    def show(self, line: str) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            self.stdout.write(line.rstrip())
            return
        left = f", {message['eta_s']} s left" if message["eta_s"] is not None else ""
        self.stdout.write(f"{message['done']:4.0%} {message['what']}{left}")
        self.stdout.flush()

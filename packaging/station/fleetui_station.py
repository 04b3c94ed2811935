"""fleetui-station practise | lerobot: the commands of a robot's machine. Each loads what it needs when it is called."""

import sys

from robots.worlds import on_demand

COMMANDS = {
    "practise": ("stations of a file of tokens, in simulated worlds", "training.practice:main"),
    "lerobot": ("a LeRobot robot as a station", "training.lerobot_station:main"),
}


def main() -> int:
    """Carry out one command; the process's exit code."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in COMMANDS:
        try:
            return on_demand(COMMANDS[name][1])(rest) or 0
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            print('Policies need torch here: pip install "fleetui-station[policy]".', file=sys.stderr)
            return 2
    print("usage: fleetui-station COMMAND ..., and COMMAND --help says more:\n")
    for command, (summary, _) in COMMANDS.items():
        print(f"    {command:10} {summary}")
    return 0 if name in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())

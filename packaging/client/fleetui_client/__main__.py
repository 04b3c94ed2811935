"""python -m fleetui_client: the same as the command `fleet`."""

import sys

from fleetui_client.commands import main

if __name__ == "__main__":
    sys.exit(main())

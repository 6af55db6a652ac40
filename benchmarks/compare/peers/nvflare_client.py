"""The script of an NVFlare client: it adds a number of its own to the parameters, and the first notes the time.

Arguments: the file for what the first client notes.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import nvflare.client as flare


def main() -> None:
    """Answer every round; a round is the time from one request to the next."""
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2]) - 1
    begins: list[float] = []
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        begins.append(time.time())
        value = float(next(iter(received.params.values())).mean())
        if number == 0:
            with open(sys.argv[1], "w") as file:
                json.dump({"ends": begins[1:], "outcome": value}, file)
        step = np.float32(1 + 0.01 * number)
        params = {name: np.asarray(array, dtype=np.float32) + step for name, array in received.params.items()}
        flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 8}))


if __name__ == "__main__":
    main()

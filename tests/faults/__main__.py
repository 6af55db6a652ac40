"""Jobs of 20 rounds through what hospitals have: each has to end in the bytes of one that nothing disturbs.

python -m tests.faults [--only TEXT ...] [--long] [--seed N]

It prints a line for each scenario: how long the job took, how many faults happened, whether its bytes are right,
whether anything was trained twice, and whom a round left out. It exits with 1 where a job noticed. Scenarios for which
this machine lacks a part are skipped, and counted; where nothing may be missing (CI=true), that counts as bad.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from _pytest.outcomes import Failed, Skipped

from fedjob.common.errors import FedjobError
from tests import preloaded
from tests.faults.authority import Authority
from tests.faults.federation import FederationBehindLines, assert_undisturbed
from tests.faults.namespaces import LossyLink
from tests.faults.scenarios import SCENARIOS, Scenario, Setting
from tests.faults.squid import Squid
from tests.processes import Processes


@contextmanager
def federation_in(setting: Setting, folder: Path) -> Iterator[FederationBehindLines]:
    """Start the federation of a setting."""
    with ExitStack() as stack:
        about: dict[str, Any] = {
            "tls": setting not in ("mqtt", "ws"),
            "broker": "mqtt" if setting == "mqtt" else "ws",
        }
        processes = stack.enter_context(Processes(folder / "others"))
        if setting == "squid":
            squid = Squid(processes, folder / "squid", random.randrange(10_000, 30_000))
            about["outer"] = squid.port, squid.login
            time.sleep(3)  # it says nothing when it is ready
        if setting.startswith("netns-"):
            link = LossyLink(processes, setting.partition("-")[2], 0.05, number=random.randrange(1, 60))
            about["link"] = stack.enter_context(link)
        if setting == "inspected":
            about["inspection"] = Authority(folder)
        (folder / "federation").mkdir()
        yield stack.enter_context(FederationBehindLines(folder / "federation", **about))


def run(federation: FederationBehindLines, scenario: Scenario, seed: int) -> tuple[bool, str]:
    """Run a scenario's job; return whether it noticed nothing, and what to print."""
    more = {} if scenario.quorum is None else {"quorum": scenario.quorum}
    about = {"rounds": scenario.rounds, "width": scenario.width}
    began = time.monotonic()
    try:
        outcome = federation.run_job(*scenario.ways, seed=seed, pause_s=scenario.pause_s, **about, **more)
        found = f"{outcome.seconds:7.1f} s  {sum(outcome.faults.values()):5} faults  "
        assert_undisturbed(federation, outcome, **about)
        if sum(outcome.faults.values()) < scenario.at_least:
            return False, f"{found}too few faults for the row to count"
    except FedjobError as error:
        return False, f"{time.monotonic() - began:7.1f} s  {type(error).__name__}: {str(error)[:300]}"
    except AssertionError as error:
        return False, f"{found}{str(error)[:300]}"
    return True, f"{found}undisturbed bytes, nothing twice, nobody left out"


def main() -> None:
    """Run the scenarios, those of one setting with one federation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="scenarios whose names contain one of these")
    parser.add_argument("--long", action="store_true", help="those too that take many minutes")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    chosen = [
        each
        for each in SCENARIOS
        if any(text in each.name for text in asked.only) and (asked.long or not each.long)
    ]
    bad = 0
    with preloaded.interpreter(preloaded.server().python):
        for setting in dict.fromkeys(each.setting for each in chosen):
            scenarios = [each for each in chosen if each.setting == setting]
            if not setting.startswith("netns-"):  # whose link loses packets whatever the scenario
                scenarios.insert(0, Scenario(name=f"nothing goes wrong ({setting})", setting=setting))
            bad += run_setting(setting, scenarios, asked.seed)
    preloaded.close()
    sys.exit(bool(bad))


def run_setting(
    setting: Setting,
    scenarios: Sequence[Scenario],
    seed: int,
    federation: Callable[[Setting, Path], AbstractContextManager[FederationBehindLines]] = federation_in,
) -> int:
    """Run scenarios with one federation, and print a line for each; return how many noticed something.

    Where this machine lacks a part, such as squid, its scenarios are skipped, and the others go on.

    Args:
        federation: starts the one of a setting, in a folder.
    """
    bad = 0
    try:
        with (
            tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder,
            federation(setting, Path(folder)) as started,
        ):
            for scenario in scenarios:
                fine, text = run(started, scenario, seed)
                bad += not fine
                print(f"{'ok ' if fine else 'BAD'} {scenario.name:48} {text}", flush=True)
    except (Skipped, Failed) as reason:
        bad += len(scenarios) * isinstance(reason, Failed)
        word = "BAD" if isinstance(reason, Failed) else "-  "
        print(f"{word} {setting}: {len(scenarios)} scenarios skipped, {reason}", flush=True)
    return bad


if __name__ == "__main__":
    main()

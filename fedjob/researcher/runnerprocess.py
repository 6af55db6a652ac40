"""`python -m fedjob.researcher.runnerprocess JOBFOLDER`: runs one submitted job, detached from everybody.

It is started by `job.submit`, `job.restart`, and by whoever waits for a job whose
runner is gone before it began. It ends with the job.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from fedjob.common.errors import (
    BrokerUnreachable,
    FedjobError,
    JobError,
    JobFailed,
    RepositoryUnreachable,
)
from fedjob.common.lifecycle import PENDING
from fedjob.researcher.folder import JobFolder
from fedjob.researcher.noticing import notice

if TYPE_CHECKING:
    from fedjob.researcher.session import Session

CONNECT_S = 3600.0
"""How long a job that waits is patient with a hub that is away."""

_AGAIN_S = (1.0, 2.0, 5.0, 10.0, 30.0)


def main(path: str) -> int:
    """Run the job; return the process's exit status."""
    folder = JobFolder(Path(path))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # its terminal may go; it stays
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not _is_wanted(folder):
        return 0
    from fedjob.researcher.job import Job
    from fedjob.researcher.spec import load_spec

    session = None
    try:
        if not load_spec(folder.spec).local:
            session = _connect(folder)
            if session is None:
                return 1
        job = Job.open(folder.path, session=session)
        job.run_on()
        return 0
    except JobFailed as error:
        sys.stderr.write(f"{error.outcome} ({error.reason}): {error}\n")
        return 1
    except JobError as error:  # somebody else runs it
        sys.stderr.write(f"{error}\n")
        return 0
    except KeyboardInterrupt:
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        if session is not None:
            session.close()


def _is_wanted(folder: JobFolder) -> bool:
    return notice(folder).state in PENDING and not folder.is_held()


def _connect(folder: JobFolder) -> Session | None:
    """Connect; while the hub is away, try again as long as the job is still wanted."""
    from fedjob.researcher.session import connect

    deadline = time.monotonic() + CONNECT_S
    num_failed = 0
    while True:
        try:
            return connect(home=folder.path.parent.parent)
        except (BrokerUnreachable, RepositoryUnreachable) as error:
            sys.stderr.write(f"{error}\n")
            again = time.monotonic() + _AGAIN_S[min(num_failed, len(_AGAIN_S) - 1)]
            num_failed += 1
            while time.monotonic() < again:
                time.sleep(0.5)
                if not _is_wanted(folder):
                    return None
            if time.monotonic() > deadline:
                raise
        except FedjobError as error:
            sys.stderr.write(f"{error}\n")
            return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

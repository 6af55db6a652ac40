"""Try a function on a mock, then run the same function on the private data.

Run it against a hub whose node offers a dataset `numbers` with a mock, for instance

    fedjob hub start --home hub &
    fedjob node init --home node --id hospital --hub http://127.0.0.1:8844
    printf 'A,B\\n1,10\\n2,20\\n3,30\\n' > numbers.csv
    printf 'A,B\\n1,20\\n2,10\\n1,20\\n' > mock.csv
    fedjob node data add numbers numbers.csv --mock mock.csv --home node
    fedjob node start --home node &
    python examples/mock_then_private.py --hub http://127.0.0.1:8844

and, as the node's owner, read and approve what it asks for, once for the mock and
once for the private data:

    fedjob node grants list --pending --home node
    fedjob node grants show ID --code --home node
    fedjob node grants approve ID --home node
"""

from __future__ import annotations

import argparse

import fedjob
from fedjob import Job, connect


@fedjob.function
def sum_of_columns(dataset):
    """Return the sum of every column, and nothing of any row."""
    frame = dataset.frame()
    return {str(name): int(frame[name].sum()) for name in frame}


def main() -> None:
    options = argparse.ArgumentParser(description="A function on a mock, then on private data.")
    options.add_argument("--hub", required=True)
    options.add_argument("--home")
    given = options.parse_args()
    with connect(hub=given.hub, home=given.home) as session:
        (numbers,) = session.datasets(name="numbers")

        # at home: the owner publishes the mock, so that a function can be tried without asking anybody
        print("here, on the mock:", sum_of_columns(numbers.mock()))

        # at the node, on the mock: the owner reads the function and allows it for the mock
        rehearsal = Job(sum_of_columns, data=numbers, use="mock", name="sums on the mock", session=session)
        on_mock = rehearsal.run(progress=False).value
        print("at the node, on the mock:", on_mock)
        assert on_mock == {"A": 4, "B": 50}

        # the same function, the same text, on the data that nobody else may see
        job = Job(sum_of_columns, data=numbers, name="sums", session=session)
        assert job.spec.plan_hash == rehearsal.spec.plan_hash
        on_private = job.run(progress=False).value
        print("at the node, on the private data:", on_private)
        assert on_private == {"A": 6, "B": 60}


if __name__ == "__main__":
    main()

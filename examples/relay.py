"""A job through a relay: a node of one federation that is a researcher in another.

A region's hospitals talk to the region's hub only; the region's own node takes part
in the nation's federation. The nation's researcher asks the region, the region asks its
hospitals, and only the sum goes up. The owner of the region's node approves this text, and runs that node, which has
no data of its own, without the sandbox (`fedjob node config set sandbox none`): inside there is no network.

    python examples/relay.py NATION_HUB REGION_NODE REGION_HUB REGION_HOME
"""

from __future__ import annotations

import sys

import fedjob


@fedjob.function
def ward_rows(dataset):
    """Run at a hospital: how many rows there are."""
    return dataset.num_rows


@fedjob.function
def region_rows(dataset, hub, home, ctx):
    """Run at the relay: submit a job to the region's federation, and pass on the sum.

    `hub` is the region's; `home` is the relay's home as a researcher there.
    """
    with fedjob.connect(hub=hub, home=home) as region:
        job = fedjob.Job(ward_rows, data={"tags": ["ward"]}, props={"via": ctx.node}, session=region)
        rows = job.run(progress=False).value
    ctx.emit("note", text=f"job {job.id} asked {', '.join(sorted(job.spec.datasets))}")
    return sum(rows.values()) if isinstance(rows, dict) else rows


def main(hub: str, node: str, region_hub: str, region_home: str) -> None:
    """Ask the region's node for the number of rows in its hospitals."""
    with fedjob.connect(hub=hub) as session:
        job = fedjob.Job(region_rows.bind(hub=region_hub, home=region_home), nodes=[node], session=session)
        print(job.run(progress=False).value, "rows in the region")


if __name__ == "__main__":
    main(*sys.argv[1:])

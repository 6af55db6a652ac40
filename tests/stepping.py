"""Plans that work on items in batches, as a user would write them in a file."""

from __future__ import annotations

from fedjob import Plan


class Sizes(Plan):
    """What is in each file: a whole number."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        return [int(file.read_text()) for file in ctx.data.items]


class Total(Sizes):
    """The same, with one answer of all batches."""

    def finish(self, ctx, parts):  # type: ignore[no-untyped-def]
        return sum(sum(part) for part in parts)


class Counted(Plan):
    """Keeps count of its own calls, and of the objects that they were made on."""

    def setup(self, ctx):  # type: ignore[no-untyped-def]
        self.setups = getattr(self, "setups", 0) + 1
        self.model = object()
        self.seen = []

    def step(self, ctx):  # type: ignore[no-untyped-def]
        self.seen.append((id(self.model), ctx.data))
        return len(ctx.data)

    def finish(self, ctx, parts):  # type: ignore[no-untyped-def]
        return {
            "setups": self.setups,
            "sizes": list(parts),
            "models": len({model for model, _ in self.seen}),
            "batches": len({id(data) for _, data in self.seen}),
        }


class Few(Sizes):
    """Works on files with at least a number in them only."""

    def setup(self, ctx):  # type: ignore[no-untyped-def]
        ctx.select([int(file.read_text()) >= ctx.args["least"] for file in ctx.data.items])


class Greedy(Plan):
    """Takes more memory than a node gives a worker."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        held = []
        while True:
            held.append(bytearray(1 << 26))


class Half(Plan):
    def step(self, ctx):  # type: ignore[no-untyped-def]
        return [int(file.read_text()) / 2 for file in ctx.data.items]


class Round(Plan):
    def step(self, ctx):  # type: ignore[no-untyped-def]
        return [round(half) for half in ctx.previous]


class Named(Plan):
    def step(self, ctx):  # type: ignore[no-untyped-def]
        return [f"{file.name}={number}" for file, number in zip(ctx.data.items, ctx.previous, strict=True)]


class Line(Plan):
    """Three plans one after another."""

    steps = (Half, Round, Named)


class Attributes(Plan):
    """Tells what a plan may know of the work that it is part of."""

    def setup(self, ctx):  # type: ignore[no-untyped-def]
        self.before = (ctx.node, bool(ctx.task_id), ctx.data.num_rows, ctx.limits.dp)

    def step(self, ctx):  # type: ignore[no-untyped-def]
        return {"before": self.before, "project": ctx.project, "names": sorted(vars(ctx))}


class Split(Plan):
    """Tells which items are in which part."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        return {name: [file.name for file in part.items] for name, part in ctx.split.items()}


class Fetching(Plan):
    """Reads what the job sends along."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        return ctx.fetch(ctx.args["artifact"]).read_text()


class Mean(Plan):
    """The mean of a column of a table, from the sums of its batches."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        column = ctx.data.frame()["x"]
        return float(column.sum()), len(column)

    def finish(self, ctx, parts):  # type: ignore[no-untyped-def]
        totals = list(parts)
        return sum(total for total, _ in totals) / sum(count for _, count in totals)


class Limited(Plan):
    """Finds at its first batch that a limit is reached."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        from fedjob.common.errors import NodeFailure

        raise NodeFailure(ctx.node, ctx.args["reason"], "it is used up")


class Slow(Plan):
    """Takes its time to prepare at one node; tells when it was ready and when it began, seconds since 1970."""

    def setup(self, ctx):  # type: ignore[no-untyped-def]
        import time

        if ctx.node == ctx.args["slow"]:
            time.sleep(ctx.args["s"])
        self.ready = time.time()

    def step(self, ctx):  # type: ignore[no-untyped-def]
        import time

        return [self.ready, time.time()]


class Secretive(Plan):
    """Uses a secret of the node's owner, or tries to let it out."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        import os

        secret, how = ctx.secrets["ehr"], ctx.args["how"]
        if how == "length":
            return [len(secret)]
        if how == "print":
            print("connecting with", secret)
            os.write(1, f"and again {secret}\n".encode())
        if how == "emit":
            ctx.emit("note", text=f"connected with {secret}")
        if how == "raise":
            raise ConnectionError(f"no connection with {secret}")
        return [secret] if how == "return" else ["done"]


class Centred(Plan):
    """The mean at each node, less what the researcher gives."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        numbers = [int(file.read_text()) for file in ctx.data.items]
        return sum(numbers) / len(numbers) - ctx.values.get("centre", 0.0)


class Coordinated(Centred):
    """Asks twice: for the means, then for how far each is from their mean."""

    def coordinate(self, job):  # type: ignore[no-untyped-def]
        means = job.step()
        return {"job": job.id, "spread": job.step(centre=sum(means.values()) / len(means))}


class Waiting(Centred):
    """The same, with awaiting."""

    async def coordinate(self, job):  # type: ignore[no-untyped-def]
        import asyncio

        means = job.step()
        await asyncio.sleep(0)
        first = min(job.nodes)
        return {"job": job.id, "spread": job.step([first], centre=means[first])}


class Endless(Plan):
    """Works through its first batch, and never through its second."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        import time

        if hasattr(self, "begun"):
            time.sleep(60)
        self.begun = True
        return 1


class Reading(Plan):
    """Holds all files of a batch at once."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        held = [file.read_bytes() for file in ctx.data.items]
        return [len(content) for content in held]


class Report(Plan):
    """Makes two files."""

    primary = "report.csv"

    def step(self, ctx):  # type: ignore[no-untyped-def]
        return [(file.name, int(file.read_text())) for file in ctx.data.items]

    def finish(self, ctx, parts):  # type: ignore[no-untyped-def]
        import pandas

        rows = [row for part in parts for row in part]
        table = pandas.DataFrame(rows, columns=["file", "size"])
        return {"notes.txt": f"{len(rows)} files", "report.csv": table, "sum": table["size"].sum().item()}


class Traced(Plan):
    """Says which process runs which half."""

    def step(self, ctx):  # type: ignore[no-untyped-def]
        import os

        return f"{ctx.node} {ctx.args['here'] == os.getpid()}"

    def coordinate(self, job):  # type: ignore[no-untyped-def]
        import os

        answers = job.step()
        return {"coordinated by": os.getpid(), "answers": sorted(answers.values())}

"""The order in which examples are trained on, and their division into training and test rows.

Numbers and seeds only, no data. Importing this module imports neither torch nor numpy, as the node's daemon needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from fedjob.training_plans.training_args import TrainingArgs

    Numbers = np.ndarray[Any, np.dtype[np.int64]]
    Keys = np.ndarray[Any, np.dtype[np.float64]]


class RoundBatches:
    """The batches of a round for a loop of a plan's own: they are gone through once, and counted where that is known."""

    def __init__(self, batches: Iterator[Any], total: int) -> None:
        """Hold them.

        Args:
            total: how many there are, 0 where only their end will tell.
        """
        self._batches, self._total = batches, total

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._batches)

    def __len__(self) -> int:
        if not self._total:
            raise TypeError(
                "how many batches a stream has is not known before its end: give num_updates, or count in the loop"
            )
        return self._total

    def __bool__(self) -> bool:
        return True


def split_indices(num_rows: int, args: TrainingArgs, seed: int) -> tuple[Numbers, Numbers]:
    """Divide rows into train and test, the same way for the same seed.

    A ratio above 0 keeps at least one row for testing and, below 1, one for
    training, where there are two rows. Of k folds, sizes differ by one row at most.

    Returns:
        Two arrays, each ascending; together every row once.
    """
    import numpy as np

    order = np.random.default_rng(seed).permutation(num_rows)
    if args.test_fold is not None:
        part, parts = args.test_fold
        start, end = num_rows * (part - 1) // parts, num_rows * part // parts
    else:
        start, end = 0, int(num_rows * args.test_ratio)
        if 0 < args.test_ratio < 1 and num_rows > 1:
            end = min(max(end, 1), num_rows - 1)
    return np.sort(np.concatenate([order[:start], order[end:]])), np.sort(order[start:end])


def drawn_by_key(keys: Keys, args: TrainingArgs) -> tuple[Numbers, Numbers]:
    """Divide rows into train and test by a key of each row, so that no seed decides and no row ever changes sides.

    Args:
        keys: from 0 to 1; a ratio takes those below it for testing, a fold those of its part.

    Returns:
        Two arrays, each ascending; together every row once.
    """
    import numpy as np

    low, high = 0.0, args.test_ratio
    if args.test_fold is not None:
        part, parts = args.test_fold
        low, high = (part - 1) / parts, part / parts
    testing = (keys >= low) & (keys < high)
    return np.flatnonzero(~testing), np.flatnonzero(testing)


@dataclass(frozen=True, slots=True, eq=False)
class Passes:
    """Whole passes over rows, in batches.

    Args:
        rows: of each pass, ascending.
        updates: batches of one pass.
        total: batches of all passes.
        joins: whether a last batch that is short is a part of the one before it.
    """

    rows: Numbers
    size: int
    updates: int
    total: int
    joins: bool = False

    def batches(self, seed: int, *, shuffle: bool = True) -> Iterator[Numbers]:
        """Yield the batches, each pass in an order of its own as `training_batches` has it."""
        import numpy as np

        generator = np.random.default_rng(seed)
        for _ in range(self.total // self.updates if self.updates else 0):
            order = generator.permutation(self.rows) if shuffle else self.rows
            whole = self.size * (self.updates - 1) if self.joins else len(order)
            yield from epoch_batches(order[:whole], self.size)
            if self.joins:
                yield order[whole:]


def whole_passes(
    rows: Numbers, keys: Keys, args: TrainingArgs, *, batch_size: int | None = None, drop_last: bool = False
) -> Passes:
    """Return the passes over fixed rows that come nearest to what the arguments ask for.

    Arguments that ask for a part of a pass, such as `num_updates=1`, get passes over the rows with the lowest keys: the
    same in each round, and the more the arguments ask for the more of them. A last part of a pass is left out, and
    instead of leaving out a short batch it is joined to the one before.

    Args:
        rows: of the training split.
        keys: of these rows.
        batch_size, drop_last: of the user's own DataLoader.
    """
    import numpy as np

    size = batch_size or args.batch_size
    total = num_updates(len(rows), args, batch_size, drop_last)
    per_pass = num_updates(len(rows), replace(args, epochs=1, num_updates=None), batch_size, drop_last)
    asked = min(per_pass, total)
    if (drop_last or args.drop_last) and asked and asked == len(rows) // size and len(rows) % size:
        return Passes(rows, size, asked, max(1, total // asked) * asked, joins=True)
    count = min(len(rows), asked * size)
    chosen = np.sort(rows[np.argsort(keys, kind="stable")[:count]])
    updates = -(-len(chosen) // size)
    return Passes(chosen, size, updates, max(1, total // updates) * updates if updates else 0)


def epoch_batches(
    rows: Numbers, batch_size: int, *, drop_last: bool = False, maximum: int | None = None
) -> Iterator[Numbers]:
    """Cut an order of rows into batches; the last may be short."""
    end = len(rows) - len(rows) % batch_size if drop_last and len(rows) >= batch_size else len(rows)
    for number, start in enumerate(range(0, end, batch_size)):
        if maximum is not None and number >= maximum:
            return
        yield rows[start : min(start + batch_size, end)]


def training_batches(
    rows: Numbers,
    args: TrainingArgs,
    seed: int,
    *,
    batch_size: int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> Iterator[Numbers]:
    """Yield the batches of a round: epochs, or updates that cycle over the rows.

    Each pass has an order of its own, drawn from one generator.

    Args:
        rows: of the training split.
        batch_size: of the user's own DataLoader, instead of the arguments'.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    done, total = 0, num_updates(len(rows), args, batch_size, drop_last)
    while done < total:
        order = generator.permutation(rows) if shuffle else rows
        size = batch_size or args.batch_size
        for batch in epoch_batches(
            order, size, drop_last=drop_last or args.drop_last, maximum=args.batch_maxnum
        ):
            if done == total:
                return
            done += 1
            yield batch


def num_updates(
    num_rows: int, args: TrainingArgs, batch_size: int | None = None, drop_last: bool = False
) -> int:
    """Return how many batches `training_batches` yields."""
    if args.dry_run:
        return min(1, num_rows)
    if args.num_updates is not None:
        return args.num_updates if num_rows else 0
    size = batch_size or args.batch_size
    whole, rest = divmod(num_rows, size)
    per_epoch = whole if whole and (drop_last or args.drop_last) else whole + bool(rest)
    if args.batch_maxnum is not None:
        per_epoch = min(per_epoch, args.batch_maxnum)
    return per_epoch * (args.epochs or 1)


def is_logged(done: int, total: int, args: TrainingArgs) -> bool:
    """Return whether a `metrics` event follows an update: every `log_interval`, and at the end of each epoch.

    Args:
        done: updates so far.
        total: of the round, 0 where only its end will tell.
    """
    per_epoch = total // args.epochs if args.epochs else 0
    at_end = done == total or (per_epoch > 0 and done % per_epoch == 0)
    return at_end or done % args.log_interval == 0

"""Functions that start child tasks, for tests: a map and reduce, a diamond, three levels."""

from __future__ import annotations

import fedjob

TEXTS = ("a b a", "b c", "a", "c c b a")


@fedjob.function
def count_words(dataset, text):  # type: ignore[no-untyped-def]
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


@fedjob.function(launches=[count_words])
def count_all(dataset, texts, ctx):  # type: ignore[no-untyped-def]
    children = [ctx.launch(count_words, text=text) for text in texts]
    total: dict[str, int] = {}
    for child in children:
        for word, count in child.wait().items():
            total[word] = total.get(word, 0) + count
    return total


@fedjob.function
def source(dataset):  # type: ignore[no-untyped-def]
    return 3


@fedjob.function
def double(dataset, number):  # type: ignore[no-untyped-def]
    return 2 * number


@fedjob.function
def square(dataset, number):  # type: ignore[no-untyped-def]
    return number * number


@fedjob.function
def add(dataset, left, right):  # type: ignore[no-untyped-def]
    return left + right


@fedjob.function(launches=[source, double, square, add])
def diamond(dataset, ctx):  # type: ignore[no-untyped-def]
    top = ctx.launch(source)
    left, right = ctx.launch(double, number=top), ctx.launch(square, number=top)
    return ctx.launch(add, left=left, right=right).wait()


@fedjob.function
def sleeper(dataset, seconds):  # type: ignore[no-untyped-def]
    import time

    time.sleep(seconds)
    return seconds


@fedjob.function(launches=[sleeper])
def middle(dataset, seconds, ctx):  # type: ignore[no-untyped-def]
    return ctx.launch(sleeper, seconds=seconds).wait()


@fedjob.function(launches=[middle])
def three_levels(dataset, seconds, ctx):  # type: ignore[no-untyped-def]
    return ctx.launch(middle, seconds=seconds).wait()


@fedjob.function(launches=[double])
def disobedient(dataset, ctx):  # type: ignore[no-untyped-def]
    return ctx.launch(square, number=3).wait()


@fedjob.function
def broken(dataset):  # type: ignore[no-untyped-def]
    raise ValueError("no luck")


@fedjob.function(launches=[broken, double])
def with_a_broken_child(dataset, ctx):  # type: ignore[no-untyped-def]
    return ctx.launch(double, number=ctx.launch(broken)).wait()

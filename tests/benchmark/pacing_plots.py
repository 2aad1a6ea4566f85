"""Draws limit, rate and latency over time, in simulated scenes, into docs/: ``python -m tests.benchmark.pacing_plots``.

It prints the table of docs/pacing.md too. It needs the extra ``benchmark``.
"""

from __future__ import annotations

import sys
from itertools import repeat
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from tests.pacing_scenes import FIXED, SCENES, Scene
from tests.simulated_backend import Answered, Story

DOCS = Path(__file__).parents[2] / "docs"
PLOTTED = ("queueing", "changing", "shared", "shedding", "losing", "far")
_BIN_SECONDS = 0.5


def draw(name: str, scene: Scene, story: Story) -> None:
    """Draw one scene as docs/pacing-NAME.svg."""
    figure, (limit_axes, rate_axes, latency_axes) = plt.subplots(3, sharex=True, figsize=(7.2, 4.8), layout="tight")
    figure.suptitle(f"A backend with {scene.title}" if scene.title[0].isdigit() else f"A backend: {scene.title}")
    at_seconds = [moment.at_seconds for moment in story.moments]
    limit_axes.plot(at_seconds, [moment.limit for moment in story.moments], drawstyle="steps-post")
    limit_axes.set_ylabel("limit")
    bins = [number * _BIN_SECONDS for number in range(int(scene.seconds / _BIN_SECONDS))]
    rates = [story.accepted_per_second(start, start + _BIN_SECONDS) for start in bins]
    rate_axes.plot(bins, rates, drawstyle="steps-post")
    rate_axes.set_ylabel("rows/s")
    accepted = [moment for moment in story.moments if moment.answered is Answered.ACCEPTED]
    latency_axes.plot(
        [moment.at_seconds for moment in accepted],
        [1000 * moment.latency_seconds for moment in accepted],
        ".",
        markersize=1,
        rasterized=True,
    )
    latency_axes.set_ylabel("latency, ms")
    latency_axes.set_xlabel("seconds")
    refused = [moment.at_seconds for moment in story.moments if moment.answered is not Answered.ACCEPTED]
    limit_axes.plot(refused, list(repeat(0, len(refused))), "rx", label="refused or lost")
    if refused:
        limit_axes.legend(loc="lower right")
    for axes in (limit_axes, rate_axes, latency_axes):
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    figure.savefig(DOCS / f"pacing-{name.replace(' ', '-')}.svg", metadata={"Date": None})
    plt.close(figure)


def row(scene: Scene, story: Story) -> str:
    """Write a scene's row of the table: the adaptive limit beside the fixed one with the highest rate."""
    fixed = {concurrency: scene.run(concurrency) for concurrency in FIXED}
    best = max(FIXED, key=lambda concurrency: scene.rate(fixed[concurrency]))
    too_many = [
        f"{fixed[concurrency].in_doubt} at {concurrency}" for concurrency in FIXED if fixed[concurrency].in_doubt
    ]
    share = scene.rate(story) / scene.rate(fixed[best])
    rates = f"{scene.rate(story):,.0f} | {scene.rate(fixed[best]):,.0f} ({best}) | {share:.2f}"
    return f"| {scene.title} | {rates} | {story.in_doubt} | {', '.join(too_many) or 'none'} |"


def main() -> None:
    """Draw the plots and print the table."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "pacing"  # the same plot, the same bytes
    table = [
        "| backend | auto, rows/s | best fixed | ratio | in doubt, auto | in doubt, fixed |",
        "|---|---|---|---|---|---|",
    ]
    for name, scene in SCENES.items():
        story = scene.run(None)
        table.append(row(scene, story))
        if name in PLOTTED:
            draw(name, scene, story)
    sys.stdout.write("\n".join(table) + "\n")


if __name__ == "__main__":
    main()

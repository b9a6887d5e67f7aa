"""The first look at the results: one line per recipe for the README, made from the cards.

All measures, budgets, devices and settings stand in the tables of `results`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_lib.recipes import results

BEGIN, END = "<!-- headlines: made from the cards -->", "<!-- end of headlines -->"


def table(cards: Mapping[Path, dict[str, Any]]) -> str:
    """One line per recipe, budget and settings, from cards by path.

    The measure of a line is the first that its paper has a figure of; without a paper it is the
    Fréchet distance, and beside it stands that between real images. Passes are those over the
    training images.
    """
    found = results.groups(cards)
    if not found:
        return results.EMPTY
    lines = [
        "| recipe | model | data | measure | ours | to compare with | passes | minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in found:
        card = group.first
        what = card["what"].partition(",")[0].partition(" (")[0].removesuffix(" with k draws")
        draws = card["config"]["settings"].get("k", 1)
        if draws > 1:
            what += f", k = {draws}"
        figure = next(iter(card["paper"]), None)
        if figure is None:
            measure, beside = results.SHOWN[0], f"real images: {group.ours(results.FLOOR)}"
        else:
            measure, beside = figure["measure"], f"the paper: {results.printed(figure)}"
            if "epochs" in figure:
                beside += f" ({figure['epochs']:,} passes)"
        lines.append(
            f"| `{card['recipe']}` | {what} | {card['data']['name']} | {measure} "
            f"| {group.ours(measure)} | {beside} | {group.passes:,.0f} | {group.minutes:.0f} |"
        )
    if all(card["device"].startswith("cpu") for card in cards.values()):
        lines += ["", "No recipe has run on a GPU yet."]
    return "\n".join(lines)

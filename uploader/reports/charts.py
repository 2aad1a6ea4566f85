"""Charts as inline SVG, in the colours of the page around them. The only file that knows `pygal`.

Chosen for plain SVG that needs no browser to make (plotly and bokeh do), styles by CSS variables, so that one chart
serves light and dark, and 130 KB (matplotlib: 30 MB, and its colours are literals). Its scripts are taken out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pygal
from pygal.style import Style

# It adds an import hook for plug-ins, of a kind that makes every later import warn on Python 3.10 and 3.11.
sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, pygal.PluginImportFixer)]

_LABELS = 6


def stacked_bars(values_by_name: Mapping[str, Sequence[float]], *, colors: Sequence[str], labels: Sequence[str]) -> str:
    """Draw bars over time, each made of one part a name.

    colors: CSS colours, ``var(--name)`` too, one a name.
    labels: one a bar; some six of them are shown.
    """
    return _drawn(pygal.StackedBar, values_by_name, colors=colors, labels=labels)


def lines(values_by_name: Mapping[str, Sequence[float | None]], *, colors: Sequence[str], labels: Sequence[str]) -> str:
    """Draw lines over time; None leaves a gap."""
    return _drawn(pygal.Line, values_by_name, colors=colors, labels=labels)


def _drawn(
    kind: Any,
    values_by_name: Mapping[str, Sequence[float | None]],
    *,
    colors: Sequence[str],
    labels: Sequence[str],
) -> str:
    ink, faint = "var(--ink)", "var(--line)"
    style = Style(
        background="transparent",
        plot_background="transparent",
        foreground=ink,
        foreground_strong=ink,
        foreground_subtle=faint,
        guide_stroke_color=faint,
        major_guide_stroke_color=faint,
        guide_stroke_dasharray="1,0",
        major_guide_stroke_dasharray="1,0",
        colors=tuple(colors),
        opacity="1",
        transition="0s",
        font_family="inherit",
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=13,
    )
    step = max(1, -(-len(labels) // _LABELS))
    chart = kind(
        style=style,
        js=(),
        width=900,
        height=240,
        margin=6,
        spacing=8,
        disable_xml_declaration=True,
        legend_at_bottom=True,
        legend_box_size=11,
        truncate_label=-1,
        truncate_legend=-1,
        show_minor_x_labels=False,
        show_dots=len(labels) == 1,
        stroke_style={"width": 2},
        include_x_axis=True,
        max_scale=5,
        no_data_text="",
    )
    chart.x_labels = list(labels)
    chart.x_labels_major = list(labels[::step])
    chart.value_formatter = lambda value: f"{value:,.10g}"
    for name, values in values_by_name.items():
        chart.add(name, list(values))
    chart.add_xml_filter(_without_scripts)
    return str(chart.render(is_unicode=True))


def _without_scripts(root: Any) -> Any:
    """Take out scripts, comments, and what only a script would show."""
    for parent in list(root.iter()):
        for child in list(parent):
            if not isinstance(child.tag, str) or child.tag.endswith(("script", "desc")):
                parent.remove(child)
    return root

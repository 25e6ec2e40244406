"""One HTML page that holds everything: no script, no other file, nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment

from mirrorlib.comparison.arms import Comparison
from mirrorlib.comparison.table import MARK, statements, tables

CAPTIONS = {
    "arms": "Each arm: a point for each seed; the diamond and bar are the mean and its 95 % "
    "t-interval, from five seeds on; dotted: chance.",
    "differences": "Differences from the baseline, paired by seed: a point for each pair; the "
    "diamond and bar are the mean and its 95 % t-interval, from five pairs on, blue only where it "
    "excludes zero.",
    "curves": "Training: mean and 95 % t-band over seeds; under five seeds a thin line for each.",
}
TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }}: arms compared</title>
<style>
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --line: #ccc; --apart: #005b8f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --line: #484848; --apart: #7cc4f0; }
}
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.2rem 0.8rem 0.2rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
td.marked { color: var(--apart); font-weight: 600; }
figure { margin: 1.5rem 0; }
figure img { width: 100%; background: #fff; }
figcaption, .note { font-size: 0.85rem; }
code { overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<ul>
{% for line in statements %}<li>{{ line }}.</li>
{% endfor %}</ul>
{% for image in images %}<figure><img src="data:image/png;base64,{{ image.data }}"
 alt="{{ image.caption }}"><figcaption>{{ image.caption }}</figcaption></figure>
{% endfor %}
{% for table in tables %}<h2>{{ table.title }}</h2>
<div class="wide"><table>
<thead><tr>{% for text in table.header %}<th scope="col">{{ text }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}<tr>{% for cell in row -%}
<td{% if cell.marked %} class="marked"{% endif %}>{{ cell.text }}{% if cell.marked %}{{ mark }}\
{% endif %}</td>{% endfor %}</tr>
{% endfor %}</tbody>
</table></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endfor %}
<h2>Where this comes from</h2>
<p>Made {{ made }} by <code>{{ command }}</code></p>
<ul>
{% for name, text in origins %}<li>{{ name }}: {{ text }}</li>
{% endfor %}</ul>
<div class="wide"><table>
<thead><tr>{% for text in ("arm", "seed", "suite", "recipe", "commit", "finished", "machine") -%}
<th scope="col">{{ text }}</th>{% endfor %}</tr></thead>
<tbody>
{% for r in records %}<tr><td>{{ r.arm }}</td><td>{{ r.seed }}</td><td>{{ r.suite or "–" }}</td>
<td>{{ r.recipe_sha }}</td><td>{{ (r.commit or "–")[:12] }}</td><td>{{ r.finished }}</td>
<td>{{ r.machine }}</td></tr>
{% endfor %}</tbody>
</table></div>
</body>
</html>
"""


def page(comparison: Comparison, images: Sequence[Path], command: str) -> str:
    """The page as HTML. images: PNG files, embedded. All that records say is escaped."""
    pictures = [
        {"data": base64.b64encode(path.read_bytes()).decode(), "caption": CAPTIONS[path.stem]}
        for path in images
    ]
    template = Environment(autoescape=True).from_string(TEMPLATE)
    return template.render(
        name=comparison.name,
        statements=statements(comparison),
        images=pictures,
        tables=tables(comparison),
        mark=MARK,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=command,
        origins=_origins(comparison),
        records=comparison.records,
    )


def _origins(comparison: Comparison) -> list[tuple[str, str]]:
    """Dates, machines and versions, each with all the values it has among the records."""
    finished = sorted(record.finished[:10] for record in comparison.records)
    days = " to ".join(dict.fromkeys((finished[0], finished[-1])))
    machines = sorted({record.machine for record in comparison.records})
    versions: dict[str, set[str]] = {}
    for record in comparison.records:
        for name, version in {**record.versions, **record.libraries}.items():
            versions.setdefault(name, set()).add(version)
    listed = [f"{name} {' and '.join(sorted(found))}" for name, found in versions.items()]
    return [
        ("records", str(len(comparison.records))),
        ("runs finished", days),
        ("machines", "; ".join(machines)),
        ("versions", ", ".join(listed) or "not recorded"),
    ]

"""The report's own style, beside `reports/html.py`'s, and its script, which only sorts and filters: without it the page
is whole."""

from __future__ import annotations

STYLE = """
.skipped ul{margin:6px 0 0;padding-left:20px;overflow-wrap:anywhere}
.controls{display:flex;flex-wrap:wrap;gap:8px 18px;align-items:center;margin:0 0 10px;font-size:14px}
.controls[hidden]{display:none}
.controls select,.controls input{font:inherit;color:inherit;background:var(--page);border:1px solid var(--line);
border-radius:6px;padding:4px 8px}
.controls output{color:var(--muted)}
table{width:100%;border-collapse:collapse;font-variant-numeric:tabular-nums}
thead th{text-align:left;font-size:13px;color:var(--muted);font-weight:600;padding:6px 10px;
border-bottom:1px solid var(--line)}
tbody th,td{padding:10px;border-bottom:1px solid var(--line);vertical-align:top;text-align:left}
tbody tr:last-child>*{border-bottom:0}
tbody th{font-weight:500;min-width:150px;max-width:240px}
.label{display:block;width:fit-content;margin-top:6px;padding:1px 8px;border:1px solid var(--line);border-radius:9px;
font-size:12.5px;color:var(--muted);overflow-wrap:anywhere}
td img{display:block;width:auto;height:auto;max-width:min(210px,24vw);max-height:210px;border-radius:6px;
border:1px solid var(--line)}
.mistake{display:block;width:fit-content;margin-top:6px;padding:1px 8px;border:1px solid currentColor;
border-radius:9px;font-size:12.5px;color:var(--text)}
.ratio{display:block;font-size:17px;font-weight:600}
.bar{display:block;width:110px;height:11px;margin:4px 0 2px}
.tick{stroke:var(--text);stroke-width:1.5}
td ul{margin:0;padding:0;list-style:none;font-size:13.5px}
td li+li{margin-top:6px}
@media print{.controls{display:none}tr{break-inside:avoid}td img{max-width:112px;max-height:112px}
tbody th,td,thead th{padding:6px}tbody th{min-width:0;max-width:110px}.ratio{font-size:13px}.bar{width:70px}
td ul,.label,.mistake,thead th{font-size:10px}thead{display:table-header-group}}
"""

SCRIPT = """
"use strict";
(function () {
  var body = document.querySelector("tbody"), rows = Array.prototype.slice.call(body.rows);
  var show = document.getElementById("show"), sort = document.getElementById("sort");
  var find = document.getElementById("find"), count = document.getElementById("count");
  var name = function (row) { return row.querySelector(".name").textContent; };
  var number = function (row, key) { return parseFloat(row.dataset[key]); };
  var orders = {
    score: function (a, b) { return number(b, "score") - number(a, "score"); },
    low: function (a, b) { return number(a, "score") - number(b, "score"); },
    number: function (a, b) { return number(a, "number") - number(b, "number"); },
    name: function (a, b) { return name(a).localeCompare(name(b), undefined, {numeric: true}); }
  };
  function update() {
    var text = find.value.toLowerCase(), shown = 0;
    rows.sort(orders[sort.value]).forEach(function (row) {
      var fits = show.value === "all" || row.dataset.verdict === show.value ||
        (show.value === "wrong" && row.dataset.wrong === "1");
      row.hidden = !(fits && name(row).toLowerCase().indexOf(text) >= 0);
      shown += row.hidden ? 0 : 1;
      body.appendChild(row);
    });
    count.textContent = shown + " of " + rows.length;
  }
  document.querySelector(".controls").hidden = false;
  document.querySelector(".controls").addEventListener("submit", function (event) { event.preventDefault(); });
  [show, sort, find].forEach(function (control) { control.addEventListener("input", update); });
  update();
})();
"""

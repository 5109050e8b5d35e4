"""The report's style sheet and its script. The script only sorts and filters; without it the page is whole."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1b1f24;--muted:#5b6570;--line:#dfe3e8;
--bad:#b42318;--bad-back:#fdeceb;--good:#1f7a4d;--good-back:#e8f5ee;--calibration:#8a94a3;--other:#3567a8}
@media screen and (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2126;--text:#e8ebef;--muted:#9aa5b1;
--line:#323942;--bad:#ff8a80;--bad-back:#43211f;--good:#6fd3a1;--good-back:#1a3529;--calibration:#7c8795;--other:#7fb0ee}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--text);font:15px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:1180px;margin:0 auto;padding:0 24px}
header{padding-top:28px}
h1{margin:0;font-size:26px;line-height:1.2;overflow-wrap:anywhere}
h2{margin:0 0 4px;font-size:17px}
header p,section p{margin:4px 0 12px}
.muted,small{color:var(--muted)}
small{font-size:12.5px}
section,.cards div{background:var(--card);border:1px solid var(--line);border-radius:10px}
section{margin:16px 0;padding:18px 20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(108px,1fr));gap:10px;margin:20px 0 0}
.cards div{padding:12px 14px;display:flex;flex-direction:column-reverse;justify-content:flex-end}
.cards dt{color:var(--muted);font-size:13px;overflow-wrap:anywhere}
.cards dd{margin:0;font-size:21px;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.histogram{display:block;width:100%;height:auto;font-size:12.5px}
.histogram text{fill:var(--text);paint-order:stroke;stroke:var(--card);stroke-width:5px;stroke-linejoin:round}
.histogram .number{fill:var(--muted);text-anchor:middle}
.histogram .axis{stroke:var(--line)}
path.threshold{stroke:var(--text);stroke-width:1.5;stroke-dasharray:5 4}
text.threshold{font-weight:600}
rect.calibration{fill:var(--calibration)}rect.normal{fill:var(--good)}rect.anomalous{fill:var(--bad)}
rect.unjudged{fill:var(--other)}rect.track{fill:var(--line)}
.skipped ul{margin:6px 0 0;padding-left:20px;overflow-wrap:anywhere}
.legend{display:flex;align-items:center;gap:8px;font-size:13px;margin-bottom:10px}
.legend i{width:140px;height:10px;border-radius:5px;border:1px solid var(--line);
background:linear-gradient(90deg,@SCALE@)}
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
.name{overflow-wrap:anywhere}
.label{display:block;width:fit-content;margin-top:6px;padding:1px 8px;border:1px solid var(--line);border-radius:9px;
font-size:12.5px;color:var(--muted);overflow-wrap:anywhere}
td img{display:block;width:auto;height:auto;max-width:min(210px,24vw);max-height:210px;border-radius:6px;
border:1px solid var(--line)}
.verdict{display:inline-block;padding:2px 10px;border-radius:11px;font-size:13.5px;font-weight:600;white-space:nowrap}
.verdict.anomalous{color:var(--bad);background:var(--bad-back)}
.verdict.normal{color:var(--good);background:var(--good-back)}
.verdict.unjudged{color:var(--muted)}
.mistake{display:block;width:fit-content;margin-top:6px;padding:1px 8px;border:1px solid currentColor;
border-radius:9px;font-size:12.5px;color:var(--text)}
.ratio{display:block;font-size:17px;font-weight:600}
.bar{display:block;width:110px;height:11px;margin:4px 0 2px}
.tick{stroke:var(--text);stroke-width:1.5}
td ul{margin:0;padding:0;list-style:none;font-size:13.5px}
td li+li{margin-top:6px}
@media (max-width:760px){header,main{padding-left:12px;padding-right:12px}section{padding:12px;overflow-x:auto}}
@media print{body{background:#fff;font-size:11px}header,main{max-width:none;padding:0}.controls{display:none}
section{border:0;padding:0;overflow:visible}tr,.cards,.histogram{break-inside:avoid}td img{max-width:112px;
max-height:112px}tbody th,td,thead th{padding:6px}tbody th{min-width:0;max-width:110px}
.ratio{font-size:13px}.bar{width:70px}
.cards{grid-template-columns:repeat(auto-fit,minmax(84px,1fr));gap:6px}.cards div{padding:8px}.cards dd{font-size:15px}
.cards dt,td ul,small,.verdict,.label,.mistake,thead th{font-size:10px}
thead{display:table-header-group}*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
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

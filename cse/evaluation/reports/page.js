"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const el = (name, text, cls) => { const e = document.createElement(name); e.textContent = text; if (cls) e.className = cls; return e; };
const sign = (x) => (x < 0 ? "\u2212" : "+") + Math.abs(x).toFixed(2);

function compare() {
  const a = +document.getElementById("a").value, b = +document.getElementById("b").value;
  const box = document.getElementById("comparison");
  box.replaceChildren();
  const found = data.pairs[Math.min(a, b) + "," + Math.max(a, b)];
  if (a === b || !found) {
    box.append(el("p", a === b ? "Choose two different checkpoints." : "These two were not scored on the same rows.", "soft"));
    return;
  }
  const flip = a > b, table = document.createElement("table"), head = table.insertRow();
  for (const name of ["task", "A", "B", "B \u2212 A", "95 %", "p (Holm)", "verdict"]) head.append(el("th", name));
  for (const [task, d] of Object.entries(found)) {
    const row = table.insertRow(), low = flip ? -d.high : d.low, high = flip ? -d.low : d.high;
    const [x, y] = flip ? [d.b, d.a] : [d.a, d.b];
    const verdict = d.p >= data.alpha ? "no difference shown" : y > x ? "B is better" : "A is better";
    for (const text of [task, x.toFixed(2), y.toFixed(2), sign(y - x), `${sign(low)} to ${sign(high)}`, d.p.toFixed(4)]) row.append(el("td", text));
    row.append(el("td", verdict, d.p < data.alpha ? "yes" : "soft"));
  }
  box.append(table);
}

function show() {
  const chosen = document.getElementById("which").value;
  for (const part of document.querySelectorAll("[data-checkpoint]")) part.hidden = part.dataset.checkpoint !== chosen;
}

if (document.getElementById("a")) {
  for (const id of ["a", "b"]) document.getElementById(id).addEventListener("change", compare);
  compare();
}
if (document.getElementById("which")) { document.getElementById("which").addEventListener("change", show); show(); }
// On paper there is nothing to choose from: print everything.
addEventListener("beforeprint", () => { for (const part of document.querySelectorAll("[data-checkpoint]")) part.hidden = false; });
addEventListener("afterprint", () => { if (document.getElementById("which")) show(); });
document.documentElement.dataset.ready = "yes";

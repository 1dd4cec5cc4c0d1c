"use strict";
const table = document.getElementById("runs");
const body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells];
const filter = document.getElementById("filter");
const states = [...document.querySelectorAll("input.state")];
const all = selector => [...document.querySelectorAll(selector)];
const runs = [...body.rows].map(row => ({ row, text: row.textContent.toLowerCase() }));

function value(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.textContent.trim().toLowerCase();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function sort(column) {
  const head = heads[column];
  const numeric = head.classList.contains("number");
  const first = numeric ? "descending" : "ascending";
  const other = numeric ? "ascending" : "descending";
  const order = head.getAttribute("aria-sort") === first ? other : first;
  heads.forEach(each => each.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const keyed = [...body.rows].map(row => [value(row, column), row]);
  keyed.sort(([x], [y]) => {
    if (x === null || y === null) return (x === null) - (y === null);  // Missing ones stay below.
    return sign * (numeric ? x - y : x < y ? -1 : x > y ? 1 : 0);
  });
  body.append(...keyed.map(([, row]) => row));
}

function choose() {
  const words = filter.value.toLowerCase().split(",").map(word => word.trim());
  const wanted = new Set(states.filter(each => each.checked).map(each => each.value));
  const shown = new Set();
  let count = 0;
  for (const { row, text } of runs) {
    const chosen = wanted.has(row.dataset.state) && words.every(word => text.includes(word));
    row.classList.toggle("hidden", !chosen);
    if (chosen) shown.add(row.dataset.row);
    count += chosen;
  }
  // Charts and pictures show the rows of which a run is left.
  all("svg .row, .rows tr[data-row], details").forEach(each =>
    each.classList.toggle("hidden", !shown.has(each.dataset.row)));
  document.getElementById("count").textContent = `${count} of ${runs.length} runs`;
}

function light(row) {
  all(".lit").forEach(each => each.classList.remove("lit"));
  const drawn = row === null ? [] : all(`svg .row[data-row="${row}"]`);
  document.body.classList.toggle("lighting", drawn.length > 0);
  if (row !== null) all(`[data-row="${row}"]`).forEach(each => each.classList.add("lit"));
}

heads.forEach((head, column) => head.addEventListener("click", () => sort(column)));
filter.addEventListener("input", choose);
states.forEach(each => each.addEventListener("change", choose));
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
all("tr[data-row], svg .row").forEach(each => {
  each.addEventListener("mouseenter", () => light(each.dataset.row));
  each.addEventListener("mouseleave", () => light(null));
});
// A link in the table opens what it leads to.
all("td a").forEach(link => link.addEventListener("click", () => {
  document.getElementById(link.hash.slice(1)).open = true;
}));
choose();

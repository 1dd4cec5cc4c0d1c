// Sorts and filters the page about runs as a reader would, and writes down what is seen then.
{
const rows = () => [...document.querySelectorAll("#runs tbody tr")];
const seen = what => document.body.insertAdjacentHTML("beforeend", `<p class="probe">${what}</p>`);
const heads = document.querySelectorAll("#runs th button");
const order = () => rows().map(row => row.dataset.row).join(" ");
heads[2].click(); seen("score down: " + order());
heads[2].click(); seen("score up: " + order());
const box = document.getElementById("filter");
box.value = "lsp, Seed 2"; box.dispatchEvent(new Event("input"));
const left = rows().filter(row => row.getClientRects().length).map(row => row.dataset.row);
seen("filtered: " + left.join(" "));
const drawn = [...document.querySelectorAll("svg .row")].filter(g => g.getClientRects().length);
seen("drawn: " + [...new Set(drawn.map(g => g.dataset.row))].join(" "));
seen("count: " + document.getElementById("count").textContent);
const page = document.documentElement, runs_table = document.querySelector(".scroll");
seen("wider than the window: " + (page.scrollWidth > window.innerWidth));
seen("wider than its box: " + (runs_table.scrollWidth > runs_table.clientWidth));
}

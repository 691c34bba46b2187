"use strict";
// Search, order and pages for the list of answers, which reads without them, too: each page is then a <details>.
{
  const section = document.getElementById("answers");
  const list = section.querySelector(".queries");
  const queries = [...section.querySelectorAll(".query")];
  const perPage = list.children.length;
  const [find, order, earlier, later, said] =
    ["find", "order", "earlier", "later", "said"].map((id) => document.getElementById(id));
  const texts = new Map();
  const text = (number) => number.toLocaleString("en");
  const name = (query) => query.querySelector("bdi").textContent;
  const score = (query) => Number(query.dataset.score);
  const orders = {
    best: (a, b) => score(b) - score(a),
    least: (a, b) => score(a) - score(b),
    name: (a, b) => name(a).localeCompare(name(b), "en", { numeric: true }),
  };
  let found = queries;
  let first = 0;

  function show(at) {
    first = Math.max(0, at < found.length ? at : first);
    const page = found.slice(first, first + perPage);
    list.replaceChildren(...page);
    const pairs = found.reduce((sum, query) => sum + query.querySelectorAll("li").length, 0);
    const range = page.length ? `${text(first + 1)} to ${text(first + page.length)} of ` : "";
    said.textContent = `${range}${text(found.length)} queries, ${text(pairs)} pairs`;
    earlier.disabled = first === 0;
    later.disabled = first + perPage >= found.length;
  }

  function search() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    if (words.length && !texts.size) {
      for (const query of queries) texts.set(query, query.textContent.toLowerCase());
    }
    found = queries.filter((query) => words.every((word) => texts.get(query).includes(word)));
    found.sort(orders[order.value]);
    first = 0;
    show(0);
  }

  section.querySelector(".finder").hidden = false;
  section.querySelector(".pages").replaceChildren(list);
  find.addEventListener("input", search);
  order.addEventListener("change", search);
  earlier.addEventListener("click", () => show(first - perPage));
  later.addEventListener("click", () => show(first + perPage));
  show(0);
}

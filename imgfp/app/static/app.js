// SPDX-License-Identifier: AGPL-3.0-or-later
// What the pages do beyond links and forms: keys, dropped pictures, filters that answer at once, a line that is dragged.
"use strict";

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const first = (selector, root = document) => root.querySelector(selector);

// A form with data-live shows its answer in the same page: parts that have these names are put in their places.
const PARTS = ["live", "overlay", "chart"];
let asked = 0;

async function showLive(form) {
  const number = ++asked;
  const address = form.getAttribute("action") + "?" + new URLSearchParams(new FormData(form));
  const live = first("#live");
  live.setAttribute("aria-busy", "true");
  const answer = await fetch(address);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  if (number !== asked) return; // a later one is on its way
  live.removeAttribute("aria-busy");
  if (!answer.ok) {
    live.replaceChildren(...all(".problem", page));
    return;
  }
  const zoom = first("[data-zoom]")?.style.cssText;
  for (const id of PARTS) {
    const [here, there] = [document.getElementById(id), page.getElementById(id)];
    // A slider that is being moved stays under the hand.
    if (here && there && !(id === "chart" && here.contains(document.activeElement))) here.replaceWith(there);
    else if (here && there) first("img", here).replaceWith(first("img", there));
  }
  if (zoom) first("[data-zoom]").style.cssText = zoom;
  history.replaceState(null, "", address);
}

document.addEventListener("submit", (event) => {
  if (event.target.matches("[data-live]")) {
    event.preventDefault();
    showLive(event.target);
  } else if (event.target.matches(".drop, .examples")) {
    first("[data-waiting]").textContent = "Looking the pictures up …";
    event.target.setAttribute("aria-busy", "true");
  }
});

document.addEventListener("change", (event) => {
  const { target } = event;
  if (target.matches("[data-submit]")) target.form.submit();
  else if (target.matches("[data-all]")) all('[name="pair"][type="checkbox"]').forEach((box) => (box.checked = target.checked));
  else if (target.matches('.drop input[type="file"]')) send(target.form, target.files);
  else if (target.matches(".line")) showLive(target.form);
  else if (target.form?.matches("[data-live]")) showLive(target.form);
  count();
});

function count() {
  const shown = first("[data-count]");
  if (shown) shown.textContent = all('[name="pair"][type="checkbox"]:checked').length;
}

// The dragged line of a chart: its place on the axis becomes the value of the field below.
const INVERSE = {
  linear: (position) => position,
  log: (position) => 10 ** position - 1,
  odds: (position) => 1 / (1 + Math.exp(-position)),
};

document.addEventListener("input", (event) => {
  const { target } = event;
  if (!target.matches(".line")) return;
  const value = INVERSE[target.dataset.scale](Number(target.value));
  const step = Number(target.dataset.round);
  const text = String(step === 1 ? Math.round(value) : Number(value.toPrecision(4)));
  document.getElementById(target.dataset.of).value = text;
  target.setAttribute("aria-valuetext", text);
});

// Dropped and pasted pictures are put into the form as if they had been chosen.
function send(form, files) {
  const most = Number(form.dataset.limitMb);
  const large = [...files].filter((file) => file.size > most * 1e6);
  const whole = [...files].reduce((sum, file) => sum + file.size, 0);
  const said = first("[data-waiting]");
  if (!files.length) return;
  if (large.length || whole > 250e6) {
    const size = ((large[0]?.size ?? whole) / 1e6).toFixed(0);
    const name = large[0]?.name ?? "what was dropped";
    said.className = "problem";
    said.textContent = `${name} has ${size} MB; at most ${most} MB a picture and 250 MB at once are looked up here.`;
    form.reset();
    return;
  }
  const input = first('input[type="file"]', form);
  if (input.files !== files) {
    const moved = new DataTransfer();
    [...files].forEach((file) => moved.items.add(file));
    input.files = moved.files;
  }
  form.requestSubmit();
}

for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    const form = first(".drop");
    if (!form) return;
    event.preventDefault();
    form.classList.toggle("over", name === "dragover");
    if (name === "drop") send(form, event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  const form = first(".drop");
  if (form && event.clipboardData.files.length) send(form, event.clipboardData.files);
});

// Keys: a control with data-key is pressed by that key while nobody types.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches('input:not([type="checkbox"]):not([type="radio"]), select, textarea');
  const scrolling = event.key.startsWith("Arrow") && event.target.closest("[data-zoom]");
  if (typing || scrolling) return;
  const control = all("[data-key]").find((one) => one.dataset.key === event.key);
  if (!control) return;
  event.preventDefault();
  control.click();
});

document.addEventListener("click", (event) => {
  const by = event.target.closest("[data-zoom-by]");
  if (!by) return;
  const shown = first("[data-zoom]");
  const now = Number(shown.style.getPropertyValue("--zoom") || 1);
  shown.style.setProperty("--zoom", Math.min(8, Math.max(1, now * Number(by.dataset.zoomBy))));
});

// A run that goes on is asked how far it is.
const progress = first("[data-status]");
if (progress) {
  setInterval(async () => {
    const answer = await fetch(progress.dataset.status).catch(() => null);
    if (!answer?.ok) return;
    const now = await answer.json();
    if (now.text === progress.textContent) return;
    if (now.text) progress.textContent = now.text;
    else location.reload();
  }, 3000);
}
count();

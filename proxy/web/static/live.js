"use strict";
// Keeps the list up to date: asks for its rows again and touches only those that changed, so that what one reads,
// selects or has in focus stays where it is.

const PERIOD_MS = 500;
const list = document.querySelector("table.list tbody");
const label = document.querySelector("label.live");
const isOn = label.querySelector("input");
const state = label.querySelector("output");
const isStill = matchMedia("(prefers-reduced-motion: reduce)");
let version = list.dataset.version;

function show(row, before) {
  list.insertBefore(row, before);
  if (!isStill.matches) row.animate({ backgroundColor: ["var(--fresh)", "transparent"] }, 1500);
}

function merge(rows) {
  let place = list.firstElementChild;
  for (const row of rows) {
    while (place && Number(place.dataset.id) > Number(row.dataset.id)) {
      const gone = place;
      place = place.nextElementSibling;
      gone.remove();
    }
    if (place && place.dataset.id === row.dataset.id) {
      const known = place;
      place = place.nextElementSibling;
      if (!known.isEqualNode(row)) known.replaceWith(row);
    } else {
      show(row, place);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextElementSibling;
    gone.remove();
  }
}

async function refresh() {
  const answer = await fetch("/rows" + location.search, { headers: { "If-None-Match": version } });
  if (answer.status === 304) return;
  if (!answer.ok) throw new Error(answer.statusText);
  const fragment = document.createElement("template");
  fragment.innerHTML = await answer.text();
  merge([...fragment.content.querySelectorAll("tr")]);
  version = answer.headers.get("ETag");
}

async function run() {
  if (isOn.checked && !document.hidden) {
    try {
      await refresh();
      state.value = "live";
    } catch {
      state.value = "no answer";
    }
  } else if (!isOn.checked) {
    state.value = "paused";
  }
  setTimeout(run, PERIOD_MS);
}

document.querySelector("form.filter").addEventListener("change", (event) => event.currentTarget.submit());
label.hidden = false;
run();

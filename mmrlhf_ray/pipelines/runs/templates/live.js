// Follows a run: asks whether there is something new, and then takes the parts of the page that are marked for it.
"use strict";

const EVERY_MS = 2000;
const GONE = "The command that serves this page does not answer.";
let seen = document.body.dataset.version;

const playing = (part) => [...part.querySelectorAll("audio, video")].some((one) => !one.paused);
const inUse = (part) => playing(part) || (part.contains(document.activeElement) && part.querySelector("select:focus, input:focus"));

async function takeNew() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  let complete = true;
  for (const part of document.querySelectorAll("[data-live]")) {
    const other = fresh.getElementById(part.id);
    if (!other || other.isEqualNode(part)) continue;
    if (inUse(part)) {
      complete = false; // its turn comes when nobody is in the middle of something
      continue;
    }
    for (const box of other.querySelectorAll("details")) {
      const was = document.getElementById(box.id);
      if (was) box.open = was.open;
    }
    part.replaceWith(other);
  }
  return complete ? fresh.body.dataset.version : seen;
}

async function look() {
  const status = document.getElementById("status");
  try {
    const now = await (await fetch("/live", { cache: "no-store" })).json();
    if (now.version !== seen) {
      const taken = await takeNew();
      if (taken !== seen) status.textContent = `${now.state}, ${now.step} steps`;
      seen = taken;
    }
    if (status.textContent === GONE) status.textContent = "";
  } catch {
    status.textContent = GONE;
  }
  setTimeout(look, EVERY_MS);
}

for (const form of document.querySelectorAll("form")) {
  form.addEventListener("change", (event) => {
    if (event.target.matches("select")) form.requestSubmit();
  });
}
setTimeout(look, EVERY_MS);

// The arena: one question at a time, one vote for each, by keys as well.

import { find } from "./page.js";
import { mediaKey, setUpMedia } from "./media.js";

const KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", x: "both_bad" };
const TYPING = "textarea, input, select, audio, video";

/** Make the page of the arena work that this is. */
export function startArena() {
  const ask = find("#arena-ask"), vote = find("#arena-vote");
  if (ask) setUpAsking(ask);
  if (vote) setUpVote(vote);
}

function setUpAsking(form) {
  form.addEventListener("submit", () => {
    find("#asking").hidden = false;
    find("button.main", form).disabled = true;
  });
  // Back in the browser's history the page is as it was left.
  addEventListener("pageshow", () => {
    find("#asking").hidden = true;
    find("button.main", form).disabled = false;
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(find("button.main", form));
  });
}

function setUpVote(form) {
  setUpMedia();
  const shownAt = performance.now();
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    find("[name=milliseconds]", form).value = Math.round(performance.now() - shownAt);
  });
  addEventListener("pageshow", () => delete form.dataset.sent);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (find("dialog[open]") || event.target.closest?.(TYPING)) return;
    const button = find(`.choices [value=${KEYS[event.key]}]`, form);
    if (button) {
      event.preventDefault();
      form.requestSubmit(button);
    } else if (event.key === "t") {
      find("#plain-text").click();
    } else if (mediaKey(event.key)) {
      event.preventDefault();
    }
  });
}

// /work and /review: one item after the other, without loading the entire page.

import { draftOf, dropDraft, keepDraft as keep } from "./drafts.js";
import { mediaKey, setUpMedia } from "./media.js";
import { _, all, find, post, say, showPage, uuid } from "./page.js";
import { Problem } from "./problem.js";
import { questionOf } from "./questions.js";
import { regionsOf } from "./regions.js";

const OTHERS = ["critique", "comment"];

export const KEYS_SETTING = "mmrlhf-keys";
export const LONGEST_MS = 86400000; // as the server takes it

let form, item, question, regions, voteId, busy;
let seenMs, shownAt;

/** Begin with the item that the page shows, if any. */
export function startWork() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => (document.hidden ? stopClock() : startClock()));
  addEventListener("beforeunload", (event) => busy && event.preventDefault());
  begin();
}

function begin() {
  busy = false;
  form = find("#question");
  find("#undo")?.addEventListener("click", undo);
  if (form === null) return;
  item = JSON.parse(form.dataset.item);
  voteId = uuid();
  seenMs = 0;
  startClock();
  question = questionOf(form, item);
  regions = regionsOf(form, item);
  const start = draftOf(form.dataset.send, item.item_id) ?? item.previous;
  if (start) fill(start);
  form.addEventListener("input", keepDraft);
  form.addEventListener("change", keepDraft);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  find("#suggestion")?.addEventListener("click", () => {
    fill(item.suggestion);
    keepDraft();
    find("#send").focus();
  });
  find("#skip")?.addEventListener("click", () => find("#skipping").showModal());
  setUpDialogs((given) => change("/api/skip", { item_id: item.item_id, ...given }, _("Skipped.")));
  setUpMedia();
  find("#send").disabled = false;
}

/** The dialogs of keys and of skipping; `skip` gets the reason and the comment. */
export function setUpDialogs(skip) {
  find("#help").addEventListener("click", () => find("#keys").showModal());
  const setting = find("#use-keys"), dialog = find("#skipping");
  setting.checked = localStorage.getItem(KEYS_SETTING) !== "off";
  setting.addEventListener("change", () => localStorage.setItem(KEYS_SETTING, setting.checked ? "on" : "off"));
  dialog?.addEventListener("close", () => {
    const choice = dialog.returnValue, given = new FormData(find("form", dialog));
    dialog.returnValue = "";
    if (choice === "skip") skip({ reason: given.get("reason"), comment: given.get("comment") });
  });
}

/** The time for which the item has been in sight. */
function startClock() {
  shownAt = performance.now();
}

function stopClock() {
  seenMs += performance.now() - shownAt;
  shownAt = performance.now();
}

/** What any answer may carry. */
function readOthers() {
  const texts = OTHERS.map((name) => [name, find(`[name=${name}]`, form)?.value ?? ""]);
  const places = regions?.read() ?? [];
  return { ...Object.fromEntries(texts.filter(([, text]) => text.trim() !== "")), ...(places.length > 0 && { regions: places }) };
}

const read = () => ({ ...question.read(), ...readOthers() });

/** Show an answer, or a draft that has no answer to the question itself yet. */
function fill(answer) {
  if (Object.keys(answer).some((name) => name !== "regions" && !OTHERS.includes(name))) question.fill(answer);
  regions?.fill(answer.regions ?? []);
  for (const name of OTHERS) {
    const area = find(`[name=${name}]`, form);
    if (area && answer[name]) {
      area.value = answer[name];
      area.closest("details").open = true;
    }
  }
}

function keepDraft() {
  find("#problem").textContent = "";
  let answer = {};
  try {
    answer = question.read();
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // there is no answer yet
  }
  keep(form.dataset.send, item.item_id, { ...answer, ...readOthers() });
}

async function send() {
  if (busy) return;
  let answer;
  try {
    answer = read();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    complain(error.message, error.place);
    return;
  }
  if (!document.hidden) stopClock();
  const body = { item_id: item.item_id, answer, milliseconds: Math.round(Math.min(seenMs, LONGEST_MS)) };
  if (form.dataset.send.startsWith("/api/votes")) body.vote_id = voteId;
  await change(form.dataset.send, body, _("Saved."));
}

async function undo() {
  const vote = find("#undo").dataset.vote;
  if (busy || vote === "") return;
  await change(`/api/votes/${vote}/undo`, {}, _("Your last vote is taken back; you can change it."));
}

/** Send a change, then show the next item. Nothing else can be done meanwhile. */
async function change(path, body, done) {
  wait(true);
  say(_("Saving …"));
  const { status, data } = await post(path, body);
  if (status < 400) {
    if (form) dropDraft(form.dataset.send, item.item_id);
    await load(done);
  } else if (status === 422) {
    wait(false);
    say("");
    complain(data.error, form);
  } else {
    await load(_("Not saved: %(problem)s", { problem: data.error }));
  }
}

function wait(on) {
  busy = on;
  find("main").setAttribute("aria-busy", on);
  for (const button of all(".actions > button")) button.disabled = on || (button.id === "undo" && button.dataset.vote === "");
}

function complain(text, place) {
  find("#problem").textContent = text;
  place.focus();
}

async function load(message) {
  const next = new URL(form?.dataset.next ?? location.href, location.href);
  if (next.pathname !== location.pathname) {
    location.assign(next);
    return;
  }
  await showPage(next);
  begin();
  find("h1").focus();
  say(`${message} ${find("h1").textContent}`);
}

const TEXTS = "textarea, input:not([type=radio], [type=checkbox])";
const ACTIVE = "a, button:not(.handle), summary, select, audio, video";
const ACTIONS = {
  u: () => undo(),
  s: () => find("#skip")?.click(),
  "?": () => find("#help")?.click(),
  c: () => openCritique(),
  m: () => regions?.open(),
  t: () => find("#plain-text")?.click(),
};

function openCritique() {
  const area = find("[name=critique]", form);
  if (area === null) return;
  area.closest("details").open = true;
  area.focus();
}

function onKey(event) {
  const at = event.target instanceof Element ? event.target : document.body;
  if (event.defaultPrevented || event.isComposing || busy) return;
  if (find("dialog[open]")) {
    dialogKey(event, at);
    return;
  }
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    form?.requestSubmit();
    return;
  }
  if (event.key === "Escape" && at.matches(`${TEXTS}, [contenteditable]`)) at.blur();
  if (event.ctrlKey || event.metaKey || event.altKey || at.matches(TEXTS)) return;
  if (event.key === "Enter") {
    if (at.matches(ACTIVE)) return;
    event.preventDefault();
    form?.requestSubmit();
    return;
  }
  if (find("#use-keys")?.checked === false) return;
  if (event.key.startsWith("Arrow") && at.matches("audio, video, [contenteditable]")) return;
  if (event.key in ACTIONS) {
    event.preventDefault();
    ACTIONS[event.key]();
  } else if (form !== null && (mediaKey(event.key) || question.key(event))) {
    event.preventDefault();
  }
}

/** What a key does while a dialog is open. */
export function dialogKey(event, at) {
  const reasons = all("#skipping[open] [name=reason]");
  if (reasons.length === 0 || at.matches(TEXTS)) return;
  const reason = reasons[event.key - 1];
  if (reason) {
    reason.checked = true;
    reason.focus();
  } else if (event.key === "Enter" && at.matches("[type=radio]")) {
    event.preventDefault();
    find("#skipping").close("skip");
  }
}

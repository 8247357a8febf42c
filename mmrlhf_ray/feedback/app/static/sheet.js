// /work/many: short questions, many on a page. Each answer is a vote of its own, sent when the page is saved.

import { draftOf, dropDraft, keepDraft } from "./drafts.js";
import { mediaKey, setUpMedia } from "./media.js";
import { _, all, find, post, say, showPage, uuid } from "./page.js";
import { Problem } from "./problem.js";
import { questionOf } from "./questions.js";
import { KEYS_SETTING, LONGEST_MS, dialogKey, setUpDialogs } from "./work.js";

const SEND = "/api/votes";
const ACTIVE = "a, button, summary, select, audio, video";

let cards, current, shownAt, busy;

/** Begin with the items that the page shows, if any. */
export function startSheet() {
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => (document.hidden ? count() : (shownAt = performance.now())));
  addEventListener("beforeunload", (event) => busy && event.preventDefault());
  begin();
}

function begin() {
  busy = false;
  cards = all("#sheet .card").map(cardOf);
  if (cards.length === 0) return;
  current = cards[0];
  shownAt = performance.now();
  find("#send").addEventListener("click", save);
  setUpDialogs(skip);
  setUpMedia();
  showCount();
  find("#send").disabled = false;
}

function cardOf(form) {
  const item = JSON.parse(form.dataset.item);
  const card = { form, item, question: questionOf(form, item), voteId: uuid(), seenMs: 0 };
  const start = draftOf(SEND, item.item_id) ?? item.previous;
  if (start && Object.keys(start).some((name) => name in ANSWERS)) card.question.fill(start);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("focusin", () => goTo(card));
  form.addEventListener("pointerdown", () => goTo(card));
  form.addEventListener("change", () => changed(card));
  find(".skip", form).addEventListener("click", () => find("#skipping").showModal());
  return card;
}

const ANSWERS = { choice: true, ratings: true }; // a draft of /work may be of a critique alone

/** From here on the time counts for this card. */
function goTo(card) {
  count();
  current = card;
}

function count() {
  current.seenMs += performance.now() - shownAt;
  shownAt = performance.now();
}

/** The answer so far; null while there is none. */
function answerOf(card) {
  try {
    // What was written about it on /work stays.
    return { ...(draftOf(SEND, card.item.item_id) ?? card.item.previous), ...card.question.read() };
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return null;
  }
}

function changed(card) {
  const answer = answerOf(card);
  if (answer !== null) keepDraft(SEND, card.item.item_id, answer);
  else dropDraft(SEND, card.item.item_id);
  find("#problem").textContent = "";
  showCount();
}

function showCount() {
  const answered = cards.filter((card) => answerOf(card) !== null).length;
  find("#answered").textContent = _("%(answered)s of %(total)s answered", { answered, total: cards.length });
}

/** Nothing is left to choose in it. */
const complete = (card) => answerOf(card) !== null && all(".scale", card.form).every((scale) => find("input:checked", scale));

function focus(card) {
  const place = find("input:checked", card.form) ?? find("h2", card.form);
  place.focus({ preventScroll: true });
  card.form.scrollIntoView({ block: "nearest" });
  goTo(card);
}

async function save() {
  if (busy) return;
  const answered = cards.filter((card) => answerOf(card) !== null);
  if (answered.length === 0) {
    find("#problem").textContent = _("Answer one of them first, or skip it.");
    focus(current);
    return;
  }
  count();
  wait(true);
  say(_("Saving …"));
  const problems = [];
  for (const card of answered) {
    const milliseconds = Math.round(Math.min(card.seenMs, LONGEST_MS));
    const body = { vote_id: card.voteId, item_id: card.item.item_id, answer: answerOf(card), milliseconds };
    const { status, data } = await post(SEND, body);
    if (status !== 422) dropDraft(SEND, card.item.item_id); // what the server cannot take is asked again
    if (status >= 400) problems.push(data.error);
  }
  const saved = _("%(saved)s saved.", { saved: answered.length - problems.length });
  await load([saved, ...problems.map((problem) => _("Not saved: %(problem)s", { problem }))].join(" "));
}

async function skip(given) {
  wait(true);
  const { status, data } = await post("/api/skip", { item_id: current.item.item_id, ...given });
  if (status < 400) dropDraft(SEND, current.item.item_id);
  const message = status < 400 ? _("Skipped.") : _("Not saved: %(problem)s", { problem: data.error });
  const place = cards.indexOf(current);
  current.form.remove();
  cards.splice(place, 1);
  if (cards.length === 0) {
    await load(message);
    return;
  }
  wait(false);
  current = cards[Math.min(place, cards.length - 1)];
  focus(current);
  showCount();
  say(message);
}

function wait(on) {
  busy = on;
  find("main").setAttribute("aria-busy", on);
  find("#send").disabled = on;
}

async function load(message) {
  await showPage(new URL(find("#sheet").dataset.next, location.href));
  begin();
  find("h1").focus();
  say(`${message} ${find("h1").textContent}`);
}

const ACTIONS = {
  j: () => step(1),
  k: () => step(-1),
  s: () => find("#skipping").showModal(),
  "?": () => find("#help").click(),
  t: () => find("#plain-text").click(),
};

function step(by) {
  const place = cards.indexOf(current) + by;
  if (place in cards) focus(cards[place]);
}

function onKey(event) {
  const at = event.target instanceof Element ? event.target : document.body;
  if (event.defaultPrevented || event.isComposing || busy || cards.length === 0) return;
  if (find("dialog[open]")) {
    dialogKey(event, at);
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter") {
    if (at.matches(ACTIVE)) return;
    event.preventDefault();
    save();
    return;
  }
  if (localStorage.getItem(KEYS_SETTING) === "off") return;
  if (event.key.startsWith("Arrow") && at.matches("audio, video")) return;
  if (event.key in ACTIONS) {
    event.preventDefault();
    ACTIONS[event.key]();
  } else if (mediaKey(event.key, current.form)) {
    event.preventDefault();
  } else if (current.question.key(event)) {
    event.preventDefault();
    if (complete(current)) goOn();
  }
}

/** To the next card that wants an answer, else to the button. */
function goOn() {
  const place = cards.indexOf(current);
  const open = [...cards.slice(place + 1), ...cards.slice(0, place)].find((card) => !complete(card));
  if (open) focus(open);
  else find("#send").focus();
}

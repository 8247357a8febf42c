// Ranking: by dragging a handle, by keys, or by choosing numbers.

import { _, all, find } from "./page.js";
import { Problem } from "./problem.js";

export function rank(form) {
  const list = find(".ranking", form);
  const cards = () => all("li", list);
  const select = (card) => find("select", card);
  const rankOf = (card) => Number(select(card).value) || Infinity;
  const inOrder = () => [...cards()].sort((a, b) => rankOf(a) - rankOf(b) || 0);
  const changed = () => list.dispatchEvent(new Event("change", { bubbles: true }));
  const byPlace = () => {
    cards().forEach((card, place) => (select(card).value = place + 1));
    changed();
  };
  const move = (card, by) => {
    const order = inOrder();
    const place = order.indexOf(card), other = place + by;
    if (other < 0 || other >= order.length) return;
    [order[place], order[other]] = [order[other], order[place]];
    list.append(...order);
    byPlace();
    find(".handle", card).focus();
  };
  for (const card of cards()) find(".handle", card).addEventListener("pointerdown", (event) => drag(event, card, list, byPlace));
  return {
    read() {
      const missing = cards().find((card) => select(card).value === "");
      if (missing) throw new Problem(_("Give every response a rank; equal ranks are ties."), select(missing));
      const given = cards().map((card) => [Number(card.dataset.index), rankOf(card)]).sort((a, b) => a[0] - b[0]);
      const used = [...new Set(given.map((entry) => entry[1]))].sort((a, b) => a - b);
      return { ranks: given.map((entry) => used.indexOf(entry[1]) + 1) };
    },
    fill(answer) {
      for (const card of cards()) select(card).value = answer.ranks[card.dataset.index] ?? "";
      list.append(...inOrder());
    },
    key(event) {
      const focused = document.activeElement.closest(".ranking li");
      if (focused && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
        if (document.activeElement.matches("select")) return false;
        move(focused, event.key === "ArrowUp" ? -1 : 1);
        return true;
      }
      if (!/^[1-9]$/.test(event.key) || Number(event.key) > cards().length) return false;
      const unranked = () => cards().find((card) => select(card).value === "");
      const card = focused ?? unranked();
      if (!card) return true;
      select(card).value = event.key;
      changed();
      find(".handle", unranked() ?? card).focus();
      return true;
    },
  };
}

/** The card stays in the document while the others move around it, so that a finger does not lose it. */
function drag(event, card, list, done) {
  if (event.button !== 0) return;
  event.preventDefault();
  find(".handle", card).focus();
  card.classList.add("dragged");
  const follow = (moved) => {
    const before = card.previousElementSibling, after = card.nextElementSibling;
    const middle = (other) => other.getBoundingClientRect().y + other.offsetHeight / 2;
    if (before && moved.clientY < middle(before)) card.after(before);
    else if (after && moved.clientY > middle(after)) card.before(after);
  };
  const drop = () => {
    card.classList.remove("dragged");
    document.removeEventListener("pointermove", follow);
    for (const name of ["pointerup", "pointercancel"]) document.removeEventListener(name, drop);
    done();
  };
  document.addEventListener("pointermove", follow);
  for (const name of ["pointerup", "pointercancel"]) document.addEventListener(name, drop);
}

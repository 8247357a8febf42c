// Keys that are pressed while a sound or clip plays.

import { _, all, find, make, say } from "./page.js";
import { Problem } from "./problem.js";

const KEYS = { "+": 1, "=": 1, "-": -1, "−": -1 };

export function live(form) {
  const list = find("#presses", form);
  let presses = [];
  const media = all(".prompt figure audio, .prompt figure video, .prompt figure img");
  const playable = media.filter((medium) => medium.tagName !== "IMG");
  const words = ([medium, second, sign]) => {
    const at = { second: second.toFixed(2), medium: find("figcaption", media[medium].closest("figure")).textContent };
    return sign > 0 ? _("good at %(second)s s of %(medium)s", at) : _("bad at %(second)s s of %(medium)s", at);
  };
  const show = () => {
    list.replaceChildren(...presses.map(entry));
    find("#no-presses", form).hidden = presses.length > 0;
  };
  const change = (made) => {
    presses = made;
    show();
    list.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const entry = (press) => {
    const remove = make("button", { type: "button", textContent: _("Remove") });
    remove.setAttribute("aria-label", _("Remove %(place)s", { place: words(press) }));
    remove.addEventListener("click", () => {
      change(presses.filter((other) => other !== press));
      find("[data-press]", form).focus();
    });
    return make("li", {}, make("span", { textContent: words(press) }), remove);
  };
  /** What plays, else what was stopped in the middle. */
  const current = () => playable.find((medium) => !medium.paused) ?? playable.find((medium) => medium.currentTime > 0);
  const press = (sign) => {
    const medium = current();
    if (medium === undefined) {
      say(_("Play it first."));
      return;
    }
    const made = [media.indexOf(medium), Number(medium.currentTime.toFixed(3)), sign];
    change([...presses, made]);
    say(words(made));
  };
  for (const button of all("[data-press]", form)) button.addEventListener("click", () => press(Number(button.dataset.press)));
  return {
    read() {
      if (presses.length === 0) throw new Problem(_("Press + or − while it plays, or skip the item."), find("[data-press]", form));
      return { presses };
    },
    fill(answer) {
      presses = answer.presses;
      show();
    },
    key(event) {
      if (event.key === "Backspace" && presses.length > 0) {
        change(presses.slice(0, -1));
        return true;
      }
      if (!(event.key in KEYS)) return false;
      press(KEYS[event.key]);
      return true;
    },
  };
}

// The switch between texts as their writers meant them and the characters that were written.

import { all, find } from "./page.js";

const SETTING = "mmrlhf-plain-text";

/** Make the switch of this page work; it is in sight where a text has a form. */
export function setUpText() {
  const button = find("#plain-text"), texts = all(".text.formatted");
  if (button === null) return;
  const meant = new Map(texts.map((text) => [text, [...text.childNodes]]));
  const show = (plain) => {
    button.setAttribute("aria-pressed", plain);
    for (const text of texts) {
      text.classList.toggle("formatted", !plain);
      text.replaceChildren(...(plain ? [text.dataset.plain] : meant.get(text)));
    }
  };
  button.hidden = texts.length === 0;
  button.addEventListener("click", () => {
    const plain = button.getAttribute("aria-pressed") !== "true";
    localStorage.setItem(SETTING, plain ? "on" : "off");
    show(plain);
  });
  if (localStorage.getItem(SETTING) === "on") show(true);
}

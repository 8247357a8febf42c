// Marking parts of a response as wrong.
//
// The text is an editable element that refuses every edit: so it has a caret, and the keyboard selects in it as in any
// text. Marks are kept in UTF-16 units, as browsers count, and sent in characters, as the server counts.

import { _, find, make } from "./page.js";
import { Problem } from "./problem.js";

export const characters = (text, units) => [...text.slice(0, units)].length;
export const units = (text, characters) => [...text].slice(0, characters).join("").length;

export function spans(form, item) {
  const text = item.responses[0], box = find("#markable", form), list = find("#marks", form);
  let marks = [];
  readOnly(box);
  const changed = () => list.dispatchEvent(new Event("change", { bubbles: true }));

  const show = () => {
    const parts = [];
    let at = 0;
    for (const mark of marks) {
      parts.push(text.slice(at, mark.start), make("mark", { textContent: text.slice(mark.start, mark.end) }));
      at = mark.end;
    }
    box.replaceChildren(...parts, text.slice(at));
    find("#no-marks", form).hidden = marks.length > 0;
    list.replaceChildren(...marks.map(entry));
  };
  const entry = (mark, number) => {
    const note = make("input", { value: mark.note, maxLength: 2000, id: `note-${number}`, dir: "auto" });
    note.addEventListener("input", () => (mark.note = note.value));
    const label = make("label", { textContent: _("Note"), htmlFor: note.id });
    label.append(make("span", { className: "hidden", textContent: _(" on “%(text)s”", { text: text.slice(mark.start, mark.end) }) }));
    const remove = make("button", { type: "button", textContent: _("Remove") });
    remove.setAttribute("aria-label", _("Remove the mark on “%(text)s”", { text: text.slice(mark.start, mark.end) }));
    remove.addEventListener("click", () => {
      marks = marks.filter((other) => other !== mark);
      show();
      changed();
      box.focus();
    });
    return make("li", {}, make("q", { textContent: text.slice(mark.start, mark.end) }), label, note, remove);
  };
  /** Mark what is selected; marks that it touches become one with it. */
  const mark = () => {
    const chosen = selected(box);
    if (chosen === null) {
      find("#problem").textContent = _("Select the wrong words first.");
      return;
    }
    const joined = marks.filter((other) => other.start < chosen.end && chosen.start < other.end);
    const start = Math.min(chosen.start, ...joined.map((other) => other.start));
    const end = Math.max(chosen.end, ...joined.map((other) => other.end));
    const note = joined.map((other) => other.note).filter(Boolean).join("; ");
    marks = [...marks.filter((other) => !joined.includes(other)), { start, end, note }].sort((a, b) => a.start - b.start);
    show();
    changed();
    find("#problem").textContent = "";
    box.focus();
    getSelection().collapse(box, 0);
    put(box, end);
  };
  box.addEventListener("input", show); // some keyboards of phones cannot be refused
  // A click on a button takes the selection away in some browsers.
  find("#mark", form).addEventListener("pointerdown", (event) => event.preventDefault());
  find("#mark", form).addEventListener("click", mark);
  show();
  return {
    read() {
      if (box.textContent !== text) throw new Problem(_("The text was changed; load the page again."), box);
      return { spans: marks.map(({ start, end, note }) => [characters(text, start), characters(text, end), note]) };
    },
    fill(answer) {
      marks = answer.spans.map(([start, end, note]) => ({ start: units(text, start), end: units(text, end), note }));
      show();
    },
    key(event) {
      const does = { w: mark, e: () => box.focus() }[event.key];
      if (!does) return false;
      does();
      return true;
    },
  };
}

/** Make an element take a caret and a selection, and no edit. */
export function readOnly(box) {
  box.contentEditable = "true";
  for (const name of ["beforeinput", "drop", "paste", "cut"]) box.addEventListener(name, (event) => event.preventDefault());
}

/** The selection inside `box` as {start, end} in UTF-16 units, without blanks at its ends; null if there is none. */
export function selected(box) {
  const selection = getSelection();
  if (selection.rangeCount === 0) return null;
  const range = selection.getRangeAt(0);
  if (range.collapsed || !box.contains(range.commonAncestorContainer)) return null;
  const before = document.createRange();
  before.setStart(box, 0);
  before.setEnd(range.startContainer, range.startOffset);
  const chosen = range.toString(), trimmed = chosen.trim();
  if (trimmed === "") return null;
  const start = before.toString().length + chosen.indexOf(trimmed);
  return { start, end: start + trimmed.length };
}

/** Put the caret after so many UTF-16 units. */
function put(box, offset) {
  const walker = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (offset <= node.length) {
      getSelection().collapse(node, offset);
      return;
    }
    offset -= node.length;
  }
}

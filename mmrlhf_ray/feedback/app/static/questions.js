// The kinds of questions. Each is a function of (form, item) that gives
//   read()        the answer as the server takes it; throws a Problem while there is none
//   fill(answer)  show an answer, a draft or one that was taken back
//   key(event)    what a key does; true if it did something

import { diff } from "./diff.js";
import { live } from "./live.js";
import { _, all, find, make } from "./page.js";
import { rank } from "./rank.js";
import { spans } from "./spans.js";
import { Problem } from "./problem.js";

const PAIR_KEYS = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", ArrowDown: "tie", x: "both_bad" };

function pair(form) {
  const radio = (choice) => find(`[name=choice][value=${choice}]`, form);
  const choose = (choice) => {
    radio(choice).checked = true;
    radio(choice).focus();
    radio(choice).dispatchEvent(new Event("change", { bubbles: true }));
  };
  for (const card of all("[data-side]", form)) {
    card.addEventListener("click", (event) => {
      if (getSelection().isCollapsed && !event.target.closest(".media, .formula")) choose(card.dataset.side);
    });
  }
  return {
    read() {
      const chosen = find("[name=choice]:checked", form);
      if (chosen === null) throw new Problem(_("Choose first: ← or → for the better one, ↓ for a tie, x if both are bad."), radio("left"));
      return { choice: chosen.value };
    },
    fill(answer) {
      radio(answer.choice).checked = true;
    },
    key(event) {
      if (!(event.key in PAIR_KEYS)) return false;
      choose(PAIR_KEYS[event.key]);
      return true;
    },
  };
}

function rate(form, item) {
  const scales = all(".scale", form);
  const given = (scale) => find("input:checked", scale);
  const here = () => scales.find((scale) => scale.contains(document.activeElement)) ?? scales.find((scale) => !given(scale));
  const changed = (scale) => scale.dispatchEvent(new Event("change", { bubbles: true }));
  return {
    read() {
      if (!scales.some(given)) throw new Problem(_("Rate at least one aspect, or skip the item."), find("input", scales[0]));
      const ratings = item.responses.map(() => Object.fromEntries(item.aspects.map((aspect) => [aspect, null])));
      for (const scale of scales) {
        if (given(scale)) ratings[scale.dataset.response][scale.dataset.aspect] = Number(given(scale).value);
      }
      return { ratings };
    },
    fill(answer) {
      for (const scale of scales) {
        const mark = answer.ratings[scale.dataset.response][scale.dataset.aspect];
        if (mark != null) find(`[value="${mark}"]`, scale).checked = true;
      }
    },
    key(event) {
      const scale = here();
      if (event.key === "Backspace" && scale && given(scale)) {
        given(scale).checked = false;
        changed(scale);
        return true;
      }
      if (!/^[1-5]$/.test(event.key)) return false;
      if (!scale) return true;
      find(`[value="${event.key}"]`, scale).checked = true;
      changed(scale);
      const next = scales[scales.indexOf(scale) + 1] ?? scale;
      (given(next) ?? find("input", next)).focus();
      return true;
    },
  };
}

function writing(form) {
  const area = find("#text", form);
  return {
    area,
    read() {
      if (area.value.trim() === "") throw new Problem(_("Write something first, or skip the item."), area);
      return { text: area.value };
    },
    fill(answer) {
      area.value = answer.text;
      area.dispatchEvent(new Event("input", { bubbles: true }));
    },
    key(event) {
      if (event.key !== "e") return false;
      area.focus();
      return true;
    },
  };
}

function correct(form, item) {
  const { area, ...rest } = writing(form);
  const compare = () => {
    const runs = diff(item.responses[0], area.value);
    const same = runs.every(([kind]) => kind === "same");
    const parts = runs.map(([kind, text]) => (kind === "same" ? text : make(kind, { textContent: text })));
    find("#changes", form).replaceChildren(...(same ? [make("span", { className: "soft", textContent: _("None yet.") })] : parts));
  };
  area.addEventListener("input", compare);
  find("#restore", form).addEventListener("click", () => {
    rest.fill({ text: item.responses[0] });
    area.focus();
  });
  rest.fill({ text: item.responses[0] });
  return rest;
}

const KINDS = { pair, rank, rate, correct, demonstrate: writing, critique: writing, spans, live };

export const questionOf = (form, item) => KINDS[item.question](form, item);

// Places that an answer points at: the list of them, their outlines in the pictures, and the dialog that adds one.

import { DRAWINGS, KINDS, lay } from "./drawing.js";
import { _, all, find, make } from "./page.js";

const percent = (share) => `${Math.round(100 * share)} %`;
const seconds = (value) => value.toFixed(2);

/** {read, fill, open} of the item's places; null where there is nothing to point at. */
export function regionsOf(form, item) {
  const list = find("#places", form);
  if (list === null) return null;
  let regions = [];
  const options = [...find("#place-of").options];
  const optionOf = (region) => options.find((option) => option.value === `${region.kind === "text" ? "response" : "medium"} ${region.index}`);
  const quoted = (response, start, end) => _("“%(text)s”", { text: [...item.responses[response]].slice(start, end).join("") });
  const change = (made) => {
    regions = made;
    show();
    list.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const show = () => {
    list.replaceChildren(...regions.map(entry));
    find("#no-places", form).hidden = regions.length > 0;
    outline(regions);
  };
  const entry = (region) => {
    const where = `${optionOf(region).label}: ${extentWords(region, quoted)}`;
    const claim = region.claim && quoted(...region.claim);
    const about = [find(`#place-aspect option[value="${region.aspect}"]`)?.label, claim, region.note].filter(Boolean).join(" · ");
    const remove = make("button", { type: "button", textContent: _("Remove") });
    remove.setAttribute("aria-label", _("Remove %(place)s", { place: where }));
    remove.addEventListener("click", () => {
      change(regions.filter((other) => other !== region));
      find("#mark-place", form).focus();
    });
    return make("li", {}, make("span", { textContent: where }), make("span", { className: "soft", textContent: about, dir: "auto" }), remove);
  };
  const open = setUpDialog(form, item, {
    regions: () => regions,
    quoted,
    add: (region) => change([...regions, region]),
  });
  show();
  return {
    open,
    read: () => regions,
    fill(given) {
      regions = given;
      show();
    },
  };
}

function extentWords({ kind, index, extent }, quoted) {
  if (kind === "text") return quoted(index, ...extent);
  if (kind === "range") return _("%(start)s s to %(end)s s", { start: seconds(extent[0]), end: seconds(extent[1]) });
  const [left, top, width, height] = extent.map(percent);
  return _("box at %(left)s, %(top)s, of %(width)s × %(height)s", { left, top, width, height });
}

/** Draw the boxes over the prompt's pictures. */
function outline(regions) {
  all(".prompt .media figure").forEach((figure, index) => {
    const image = find("img", figure);
    if (image === null) return;
    for (const old of all(".place", figure)) old.remove();
    const boxes = regions.filter((region) => region.kind === "box" && region.index === index);
    const draw = () => {
      // The picture is as large as fits into its element, in the middle.
      const width = image.clientWidth, height = image.clientHeight;
      const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
      const share = [(scale * image.naturalWidth) / width, (scale * image.naturalHeight) / height];
      for (const { extent } of boxes) {
        const element = make("span", { className: "place" });
        lay(element, [0, 1, 2, 3].map((n) => (n < 2 ? (1 - share[n]) / 2 : 0) + extent[n] * share[n % 2]));
        find(".zoom", figure).append(element);
      }
    };
    if (image.naturalWidth > 0) draw();
    else image.addEventListener("load", draw, { once: true });
  });
}

/** The dialog; gives the function that opens it. */
function setUpDialog(form, item, { regions, quoted, add }) {
  const dialog = find("#marking"), where = find("#place-of"), area = find("#drawing");
  const aspect = find("#place-aspect"), claim = find("#place-claim"), note = find("#place-note"), problem = find("#place-problem");
  let drawing = null;
  const begin = () => {
    const { kind, url } = where.selectedOptions[0].dataset;
    const [group, index] = where.value.split(" ");
    const marked = regions().filter((region) => region.index === Number(index) && region.kind === KINDS[kind]);
    const place = { kind, url, label: where.selectedOptions[0].label, text: group === "response" ? item.responses[index] : "" };
    problem.textContent = "";
    drawing = DRAWINGS[kind](area, { ...place, marks: marked.map((region) => region.extent) });
  };
  const offerClaims = () => {
    const texts = regions().filter((region) => region.kind === "text");
    const offered = texts.map(({ index, extent }) => make("option", { value: JSON.stringify([index, ...extent]), textContent: quoted(index, ...extent) }));
    claim.replaceChildren(make("option", { value: "", textContent: _("none") }), ...offered);
  };
  where.addEventListener("change", begin);
  find("#place-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const extent = drawing.extent();
    if (extent === null) {
      problem.textContent = _("Draw the place first, or choose its words.");
      return;
    }
    const kind = KINDS[where.selectedOptions[0].dataset.kind];
    const about = { aspect: aspect.value, claim: claim.value === "" ? null : JSON.parse(claim.value), note: note.value.trim() };
    add({ kind, index: Number(where.value.split(" ")[1]), extent, ...about });
    dialog.close();
  });
  dialog.addEventListener("close", () => {
    area.replaceChildren(); // a sound must not go on
    find("#mark-place", form).focus();
  });
  find("#place-cancel").addEventListener("click", () => dialog.close());
  const open = () => {
    note.value = aspect.value = "";
    offerClaims();
    dialog.showModal();
    begin();
    find("[tabindex], audio, video", area).focus();
  };
  find("#mark-place", form).addEventListener("click", open);
  return open;
}

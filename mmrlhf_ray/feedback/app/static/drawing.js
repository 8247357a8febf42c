// How one place is drawn: a box in a picture, a range of a sound or clip, words of a response. Each is a function of
// (area, place) that fills the area and gives
//   extent()  the numbers of the place as the server takes them; null while there is none
// A place has kind, url, label, text (of a response) and marks (what is marked in it already).

import { _, make } from "./page.js";
import { characters, readOnly, selected, units } from "./spans.js";
import { timeline } from "./timeline.js";

const STEP = 0.01; // of an arrow key, as a share of the picture
const FIRST = [0.4, 0.4, 0.2, 0.2];
const SMALLEST = 0.002;
const SMALL_PX = 200; // pictures below this are enlarged without smoothing
const TALLEST_VH = 50;

const between = (value, low, high) => Math.min(Math.max(value, low), high);
const rounded = (value, digits) => Number(value.toFixed(digits));

/** A labelled field for a number. */
function field(label, most, step, changed) {
  const input = make("input", { type: "number", min: 0, max: most, step });
  input.addEventListener("input", changed);
  return { input, element: make("label", { className: "number" }, label, input) };
}

function box(area, place) {
  let extent = null;
  const image = make("img", { src: place.url, alt: place.label, draggable: false });
  const shown = make("span", { className: "place", hidden: true });
  const frame = make("div", { className: "frame", tabIndex: 0 }, image, ...place.marks.map(outlined), shown);
  frame.setAttribute("role", "application");
  frame.setAttribute("aria-label", _("%(picture)s: draw a box; arrows move it, Shift and arrows change its size", { picture: place.label }));
  const fit = () => {
    const ratio = image.naturalWidth / image.naturalHeight;
    frame.style.aspectRatio = ratio;
    frame.style.width = `min(100%, ${TALLEST_VH * ratio}vh)`;
    image.classList.toggle("small", image.naturalWidth < SMALL_PX);
  };
  image.addEventListener("load", fit);
  const typed = () => {
    const numbers = fields.map(({ input }) => (input.value === "" ? NaN : Number(input.value) / 100));
    if (numbers.every((number) => number >= 0 && number <= 1)) set(...numbers, false);
  };
  const fields = [_("Left, %"), _("Top, %"), _("Width, %"), _("Height, %")].map((name) => field(name, 100, "any", typed));
  const set = (left, top, width, height, write = true) => {
    left = between(left, 0, 1 - SMALLEST);
    top = between(top, 0, 1 - SMALLEST);
    extent = [left, top, between(width, SMALLEST, 1 - left), between(height, SMALLEST, 1 - top)].map((value) => rounded(value, 5));
    lay(shown, extent);
    shown.hidden = false;
    if (write) extent.forEach((value, number) => (fields[number].input.value = rounded(100 * value, 1)));
  };
  drag(frame, (from, to) => set(Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.abs(from[0] - to[0]), Math.abs(from[1] - to[1])));
  frame.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    if (extent === null) return set(...FIRST);
    const [left, top, width, height] = extent;
    if (event.shiftKey) set(left, top, width + by[0], height + by[1]);
    else set(between(left + by[0], 0, 1 - width), between(top + by[1], 0, 1 - height), width, height);
  });
  area.replaceChildren(frame, make("div", { className: "row numbers" }, ...fields.map(({ element }) => element)));
  return { extent: () => extent };
}

/** Call draw(from, to) with two points of the frame, as shares of its width and height, while a pointer is dragged. */
function drag(frame, draw) {
  let from = null;
  const at = (event) => {
    const edges = frame.getBoundingClientRect();
    return [between((event.clientX - edges.x) / edges.width, 0, 1), between((event.clientY - edges.y) / edges.height, 0, 1)];
  };
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    from = at(event);
  });
  frame.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = at(event);
    if (Math.max(Math.abs(from[0] - to[0]), Math.abs(from[1] - to[1])) > SMALLEST) draw(from, to);
  });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => (from = null));
}

/** Put an element over a part of what it lies in. */
export function lay(element, [left, top, width, height]) {
  for (const [name, value] of Object.entries({ left, top, width, height })) element.style[name] = `${100 * value}%`;
}

function outlined(extent) {
  const element = make("span", { className: "place old" });
  lay(element, extent);
  return element;
}

function range(area, place) {
  let extent = null;
  const medium = make(place.kind === "audio" ? "audio" : "video", { src: place.url, controls: true, preload: "auto", playsInline: true });
  medium.setAttribute("aria-label", place.label);
  const bar = timeline(medium, (start, end) => set(start, end));
  const most = () => medium.duration || Infinity;
  const typed = () => {
    const [start, end] = fields.map(({ input }) => (input.value === "" ? NaN : Number(input.value)));
    extent = null;
    if (start >= 0 && start < end && end <= most()) set(start, end, false);
  };
  const fields = [_("Start, s"), _("End, s")].map((name) => field(name, "", "any", typed));
  const set = (start, end, write = true) => {
    extent = end - start < SMALLEST ? null : [rounded(start, 3), rounded(Math.min(end, most()), 3)];
    bar.show(start, end);
    if (write) [start, end].forEach((value, number) => (fields[number].input.value = rounded(value, 2)));
  };
  const button = (label, click) => {
    const made = make("button", { type: "button", textContent: label });
    made.addEventListener("click", click);
    return made;
  };
  const here = (number) => () => {
    fields[number].input.value = rounded(medium.currentTime, 2);
    typed();
  };
  const play = () => {
    if (extent === null) return;
    medium.currentTime = extent[0];
    medium.play();
  };
  medium.addEventListener("timeupdate", () => {
    if (extent !== null && !medium.paused && medium.currentTime >= extent[1]) medium.pause();
  });
  const buttons = [button(_("Start here"), here(0)), button(_("End here"), here(1)), button(_("Play it"), play)];
  area.replaceChildren(medium, bar.element, make("div", { className: "row numbers" }, ...fields.map(({ element }) => element), ...buttons));
  return { extent: () => extent };
}

function words(area, place) {
  let chosen = null;
  const frame = make("div", { className: "text markable", id: "marked-text", tabIndex: 0, spellcheck: false, dir: "auto" });
  frame.setAttribute("role", "textbox");
  frame.setAttribute("aria-multiline", "true");
  frame.setAttribute("aria-readonly", "true");
  frame.setAttribute("aria-label", place.label);
  frame.inputMode = "none";
  let at = 0;
  for (const [start, end] of place.marks.map((mark) => mark.map((offset) => units(place.text, offset))).sort((a, b) => a[0] - b[0])) {
    if (start < at) continue;
    frame.append(place.text.slice(at, start), make("mark", { textContent: place.text.slice(start, end) }));
    at = end;
  }
  frame.append(place.text.slice(at));
  readOnly(frame);
  const said = make("p", { className: "soft", textContent: _("Select words with the mouse, a finger, or Shift and the arrows.") });
  const look = () => {
    const now = selected(frame);
    if (now === null) return;
    chosen = now;
    said.textContent = _("Chosen: “%(text)s”", { text: place.text.slice(now.start, now.end) });
  };
  for (const name of ["keyup", "pointerup", "touchend", "blur"]) frame.addEventListener(name, look);
  area.replaceChildren(frame, said);
  return {
    extent() {
      look();
      return chosen && [characters(place.text, chosen.start), characters(place.text, chosen.end)];
    },
  };
}

export const DRAWINGS = { image: box, audio: range, video: range, text: words };
export const KINDS = { image: "box", audio: "range", video: "range", text: "text" };

// A bar below a sound or clip: its waveform, where it plays, and a range that is drawn on it.

import { find, make } from "./page.js";

const BARS = 400;
const DRAG_PX = 4; // less is a click

/** Loudest sample of each of BARS equal parts, 0 … 1; null where the browser cannot decode it, as with a silent clip. */
async function peaks(url) {
  const data = await fetch(url).then((answer) => answer.arrayBuffer());
  const sound = await new OfflineAudioContext(1, 1, 22050).decodeAudioData(data).catch(() => null);
  if (sound === null) return null;
  const samples = sound.getChannelData(0), size = samples.length / BARS;
  return Array.from({ length: BARS }, (_part, number) => {
    let most = 0;
    for (let i = Math.floor(number * size); i < (number + 1) * size && i < samples.length; i++) most = Math.max(most, Math.abs(samples[i]));
    return most;
  });
}

function draw(canvas, heights) {
  const pen = canvas.getContext("2d"), loudest = Math.max(...heights, 1e-3);
  canvas.width = 2 * BARS;
  canvas.height = 64;
  pen.fillStyle = getComputedStyle(canvas).color;
  heights.forEach((height, number) => {
    const size = Math.max((60 * height) / loudest, 1);
    pen.fillRect(2 * number, 32 - size / 2, 1.4, size);
  });
}

/**
 * The bar of a medium. A click goes there; where `select` is given, dragging draws a range, select(start, end) in
 * seconds. The player's own controls, and fields next to it, do the same by keyboard.
 */
export function timeline(medium, select = null) {
  const canvas = make("canvas"), head = make("span", { className: "head" }), range = make("span", { className: "range", hidden: true });
  const element = make("div", { className: "timeline" }, canvas, range, head);
  element.setAttribute("aria-hidden", "true");
  peaks(medium.src).then((heights) => heights && draw(canvas, heights));
  const length = () => medium.duration || 0;
  medium.addEventListener("timeupdate", () => (head.style.left = `${(100 * medium.currentTime) / (length() || 1)}%`));
  const at = (event) => {
    const box = element.getBoundingClientRect();
    return Math.min(Math.max((event.clientX - box.x) / box.width, 0), 1) * length();
  };
  let from = null;
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    from = { second: at(event), x: event.clientX };
  });
  element.addEventListener("pointermove", (event) => {
    if (from === null || select === null || Math.abs(event.clientX - from.x) < DRAG_PX) return;
    select(Math.min(from.second, at(event)), Math.max(from.second, at(event)));
  });
  element.addEventListener("pointerup", (event) => {
    if (from !== null && (select === null || Math.abs(event.clientX - from.x) < DRAG_PX)) medium.currentTime = at(event);
    from = null;
  });
  element.addEventListener("pointercancel", () => (from = null));
  return {
    element,
    show(start, end) {
      range.hidden = false;
      range.style.left = `${(100 * start) / (length() || 1)}%`;
      range.style.width = `${(100 * (end - start)) / (length() || 1)}%`;
    },
  };
}

/** Speed, loop and steps of the player's figure, and its bar. */
export function setUpPlayer(figure) {
  const medium = find("audio, video", figure), speed = find(".speed", figure), loop = find(".loop", figure);
  medium.after(timeline(medium).element);
  speed.addEventListener("change", () => (medium.playbackRate = Number(speed.value)));
  loop.addEventListener("change", () => (medium.loop = loop.checked));
  for (const button of figure.querySelectorAll("[data-step]")) button.addEventListener("click", () => step(medium, Number(button.dataset.step)));
}

/** Stop, and go so many seconds forward. */
export function step(medium, seconds) {
  medium.pause();
  medium.currentTime = Math.min(Math.max(medium.currentTime + seconds, 0), medium.duration || 0);
}

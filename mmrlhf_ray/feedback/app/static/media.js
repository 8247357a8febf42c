// Images that can be enlarged; sounds and clips that a key plays.

import { all, find } from "./page.js";
import { setUpText } from "./text.js";
import { setUpPlayer, step } from "./timeline.js";

const LARGEST = 40;
const STEP_S = 0.04; // one frame of many clips
const SMALL_PX = 200; // images and clips below this are enlarged without smoothing

let current = null;

/** Make the media and texts of the page's item work. */
export function setUpMedia() {
  setUpText();
  current = null;
  for (const image of all(".media img")) {
    const note = () => image.classList.toggle("small", image.naturalWidth > 0 && image.naturalWidth < SMALL_PX);
    image.addEventListener("load", note);
    note();
  }
  for (const video of all(".media video")) {
    const note = () => video.classList.toggle("small", video.videoWidth > 0 && video.videoWidth < SMALL_PX);
    video.addEventListener("loadedmetadata", note);
    note();
  }
  for (const medium of all(".media audio, .media video")) {
    medium.addEventListener("play", () => {
      current = medium;
      for (const other of all(".media audio, .media video")) if (other !== medium) other.pause();
    });
  }
  for (const figure of all(".media figure:has(.player)")) setUpPlayer(figure);
  for (const button of all(".media .zoom")) button.addEventListener("click", () => enlarge(find("img", button)));
  setUpZoom();
}

/** z enlarges; p plays or pauses, P plays the next; l loops, comma and point step. True if the key was one of them. */
export function mediaKey(key, inside = document) {
  if (key === "z") {
    const image = find("img", document.activeElement.closest(".zoom") ?? find(".media .zoom", inside) ?? document.createElement("p"));
    if (image) enlarge(image);
    return true;
  }
  if (!["p", "P", "l", ",", "."].includes(key)) return false;
  const playable = all(".media audio, .media video", inside);
  if (playable.length === 0) return true;
  const focused = playable.indexOf(document.activeElement);
  const now = focused >= 0 ? focused : Math.max(playable.indexOf(current), 0);
  if (key === "l") {
    find(".loop", playable[now].closest("figure")).click();
    return true;
  }
  if (key === "," || key === ".") {
    step(playable[now], key === "," ? -STEP_S : STEP_S);
    return true;
  }
  const next = key === "P" && playable.includes(current) ? (now + 1) % playable.length : now;
  const medium = playable[next];
  if (key === "p" && !medium.paused) {
    medium.pause();
  } else {
    if (key === "P") medium.currentTime = 0;
    medium.play();
  }
  return true;
}

let view = { scale: 1, x: 0, y: 0 };

function enlarge(image) {
  const dialog = find("#zoomed"), large = find("img", dialog);
  large.src = image.src;
  large.alt = image.alt;
  large.classList.toggle("small", image.classList.contains("small"));
  dialog.showModal();
  show(1, 0, 0);
}

function show(scale, x, y) {
  view = { scale: Math.min(Math.max(scale, 1), LARGEST), x, y };
  if (view.scale === 1) view.x = view.y = 0;
  find("#zoomed img").style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
}

/** Zoom by a factor so that what is at (x, y), measured from the middle of the stage, stays there. */
function zoomAt(factor, x = 0, y = 0) {
  const scale = Math.min(Math.max(view.scale * factor, 1), LARGEST), by = scale / view.scale;
  show(scale, x - (x - view.x) * by, y - (y - view.y) * by);
}

function setUpZoom() {
  const dialog = find("#zoomed");
  if (dialog === null) return;
  const stage = find(".stage", dialog);
  const fromMiddle = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.x - box.width / 2, event.clientY - box.y - box.height / 2];
  };
  const buttons = { in: () => zoomAt(1.5), out: () => zoomAt(1 / 1.5), fit: () => show(1, 0, 0) };
  for (const button of all("[data-zoom]", dialog)) button.addEventListener("click", buttons[button.dataset.zoom]);
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY / 400), ...fromMiddle(event));
  }, { passive: false });
  const step = 60;
  const keys = {
    "+": buttons.in, "=": buttons.in, "-": buttons.out, 0: buttons.fit, z: () => dialog.close(),
    ArrowLeft: () => show(view.scale, view.x + step, view.y), ArrowRight: () => show(view.scale, view.x - step, view.y),
    ArrowUp: () => show(view.scale, view.x, view.y + step), ArrowDown: () => show(view.scale, view.x, view.y - step),
  };
  dialog.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  setUpDragging(stage, fromMiddle);
}

/** One pointer moves the image, two zoom it. */
function setUpDragging(stage, fromMiddle) {
  const down = new Map();
  const apart = () => {
    const [a, b] = [...down.values()];
    return Math.hypot(a[0] - b[0], a[1] - b[1]);
  };
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, fromMiddle(event));
  });
  stage.addEventListener("pointermove", (event) => {
    if (!down.has(event.pointerId)) return;
    const before = down.get(event.pointerId), now = fromMiddle(event);
    const distance = down.size === 2 ? apart() : 0;
    down.set(event.pointerId, now);
    if (down.size === 2 && distance > 0) zoomAt(apart() / distance, ...now);
    else show(view.scale, view.x + now[0] - before[0], view.y + now[1] - before[1]);
  });
  for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => down.delete(event.pointerId));
}

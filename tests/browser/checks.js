// What is wrong with the page, in words: names, structure, contrast, widths. Loaded by test_access.py.
() => {
  const problems = [];
  for (const part of document.querySelectorAll("details")) part.open = true;
  const seen = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: false });
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);
  const say = (element, what) => problems.push(`${what}: ${element.outerHTML.slice(0, 160)}`);
  const texts = (ids) => ids.split(" ").map((id) => document.getElementById(id)?.textContent.trim() ?? "").join("");
  const name = (element) =>
    element.getAttribute("aria-label") || texts(element.getAttribute("aria-labelledby") ?? "") ||
    [...(element.labels ?? [])].map((label) => label.textContent.trim()).join("") ||
    (element.matches("button, a, summary, legend") ? element.textContent.trim() || element.querySelector("img")?.alt : "");

  for (const element of all("input:not([type=hidden]), select, textarea, button, a, summary, audio, video, dialog, nav, [tabindex='0'], [role=group], section, fieldset")) {
    const legend = element.matches("fieldset") && element.querySelector("legend")?.textContent.trim();
    if (!legend && !name(element)) say(element, "no name");
  }
  for (const image of all("img")) if (!image.hasAttribute("alt") || (image.alt === "" && !image.closest("a, dialog")?.textContent.trim())) say(image, "no alt");
  for (const element of all("[tabindex]")) if (element.tabIndex > 0) say(element, "order of focus is forced");
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) problems.push(`id twice: ${id}`);
  for (const attribute of ["for", "aria-labelledby", "aria-describedby"]) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of element.getAttribute(attribute).split(" ")) if (!document.getElementById(id)) say(element, `names nothing with ${attribute}`);
    }
  }
  for (const [selector, count] of [["main", 1], ["h1", 1], ["[role=status]#status", 1], ["html[lang]", 1]]) {
    if (document.querySelectorAll(selector).length !== count) problems.push(`${selector} is not there ${count} times`);
  }
  let level = 0;
  for (const heading of all("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) say(heading, `heading after one of level ${level}`);
    level = own;
  }

  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const over = (top, bottom) => {
    const alpha = top[3] ?? 1;
    return [0, 1, 2].map((i) => top[i] * alpha + bottom[i] * (1 - alpha));
  };
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.unshift(channels(getComputedStyle(at).backgroundColor));
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const luminance = (color) => {
    const [r, g, b] = color.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement;
    if (!node.data.trim() || !seen(element) || element.closest("noscript, option, :disabled, .hidden")) continue;
    const back = behind(element), style = getComputedStyle(element);
    const ink = channels(style.color);
    const front = over([ink[0], ink[1], ink[2], (ink[3] ?? 1) * Number(style.opacity)], back);
    const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) say(element, `contrast ${ratio.toFixed(2)}`);
  }

  if (document.documentElement.scrollWidth > innerWidth) problems.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${innerWidth}`);
  for (const element of all("body *")) {
    const box = element.getBoundingClientRect();
    if (box.width > 0 && box.right > innerWidth + 1 && !element.closest(".scroll, .skip-link, .hidden")) say(element, "beyond the right edge");
  }
  for (const element of all("button, .button, nav a, select, textarea, summary")) {
    const box = element.getBoundingClientRect();
    if (box.width < 24 || box.height < 24) say(element, `${box.width} × ${box.height} is too small for a finger`);
  }
  return problems;
}

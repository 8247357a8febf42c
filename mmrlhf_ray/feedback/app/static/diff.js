// What changed between two texts, word by word.

const MOST_CELLS = 4e6;

const words = (text) => text.match(/\s+|[\p{L}\p{N}\p{M}_]+|[^\s]/gu) ?? [];

/** Runs of [kind, text] in order; kind is "same", "del" (only in `before`) or "ins" (only in `after`). */
export function diff(before, after) {
  const a = words(before), b = words(after);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const runs = [];
  const add = (kind, text) => {
    if (text === "") return;
    const last = runs.at(-1);
    if (last && last[0] === kind) last[1] += text;
    else runs.push([kind, text]);
  };
  add("same", a.slice(0, start).join(""));
  for (const [kind, text] of middle(a.slice(start, a.length - end), b.slice(start, b.length - end))) add(kind, text);
  add("same", a.slice(a.length - end).join(""));
  return runs;
}

/** By the longest common subsequence of words; texts too long for its table count as wholly replaced. */
function middle(a, b) {
  if (a.length * b.length > MOST_CELLS) return [["del", a.join("")], ["ins", b.join("")]];
  const width = b.length + 1;
  const common = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] = a[i] === b[j]
        ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  const runs = [];
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) runs.push(["same", (j++, a[i++])]);
    else if (j === b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) runs.push(["del", a[i++]]);
    else runs.push(["ins", b[j++]]);
  }
  return runs;
}

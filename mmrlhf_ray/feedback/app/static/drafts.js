// Answers that are not sent yet. Drafts outlive a reload of this tab, and nothing else: others may use this computer.

const key = (send, itemId) => `draft ${send} ${itemId}`;

/** The draft of an answer to an item that goes to the address `send`; null where there is none. */
export function draftOf(send, itemId) {
  const kept = sessionStorage.getItem(key(send, itemId));
  return kept === null ? null : JSON.parse(kept);
}

export function keepDraft(send, itemId, answer) {
  sessionStorage.setItem(key(send, itemId), JSON.stringify(answer));
}

export function dropDraft(send, itemId) {
  sessionStorage.removeItem(key(send, itemId));
}

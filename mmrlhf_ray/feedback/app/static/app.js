import { startArena } from "./arena.js";
import { setUpMedia } from "./media.js";
import { find } from "./page.js";
import { startSheet } from "./sheet.js";
import { startWork } from "./work.js";

/** A link with the token in its fragment, which browsers do not send, logs in. */
function logInByLink() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token === null) return;
  history.replaceState(null, "", location.pathname);
  find("#token").value = token;
  find("#login").requestSubmit();
}

if (find("#login")) {
  addEventListener("hashchange", logInByLink);
  logInByLink();
}
if (location.pathname === "/work/many") startSheet();
else if (find("main.wide-page .task")) startWork();
else if (find("#arena-ask, #arena-vote")) startArena();
else if (find("#zoomed")) setUpMedia();
